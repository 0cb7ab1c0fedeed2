"""The two packaged models behind one face, with the tiny real models."""

import json
import shutil

import mlflow
import numpy as np
import pytest

from slmflow.config import PackageConfig
from slmflow.config.export import Engine
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.packaging.pipeline_model import log_pipeline_model
from slmflow.quality.candidates import in_common, load
from tests.families import text_and_graph

KINDS = ("pipeline", "continuous", "generate")
WITH_STATES = ("Qwen3.5", "LFM2")
"""Families whose layers keep more than keys and values."""
CONTEXT = [1, *range(40, 300)]
CONTINUATIONS = [[7], [7, 9, 11], [5, 9], [300, 301, 302, 303, 304]]
ASKED = [
    (CONTEXT, CONTINUATIONS),
    (CONTEXT[:50], CONTINUATIONS[::-1]),
    (CONTEXT[5:55], CONTINUATIONS[:1]),
    (CONTEXT[:50], CONTINUATIONS[1:2]),
]
CHATS = [
    [{"role": "user", "content": "What is the capital of Portugal? " * 3}],
    [{"role": "user", "content": "What is the capital of Portugal? Say it."}],
    [{"role": "user", "content": "Count to three."}, {"role": "assistant", "content": "1"}],
    [{"role": "user", "content": "Hi"}],
]
LONG = [12, 5, 9, 1]


@pytest.fixture(scope="module")
def folders(tiny, tiny_onnx, tmp_path_factory):
    """A Hugging Face folder and its genai folder, by the name of the family; made once for each."""
    made = {"": (tiny, tiny_onnx)}

    def of(family):
        if family not in made:
            made[family] = text_and_graph(family, tmp_path_factory.mktemp("family"))
        return made[family]

    return of


@pytest.fixture(params=[(kind, family) for family in ("", *WITH_STATES) for kind in KINDS], ids=" ".join)
def candidate(request, store, folders, tmp_path):
    kind, family = request.param
    text, graph = folders(family)
    with mlflow.start_run():
        if kind == "pipeline":
            model_id = log_pipeline_model(text, "tiny", tmp_path / "scratch", {})
        else:
            package = PackageConfig(engine=Engine(kind))
            model_id = log_onnx_model(graph, "tiny", package, tmp_path / "scratch", {})
    return load("pipeline" if kind == "pipeline" else "onnx", f"models:/{model_id}")


def test_texts_after_contexts_are_scored_as_whole_texts_are(candidate):
    for (context, continuations), logs in zip(ASKED, candidate.branch_logprobs(ASKED), strict=True):
        for ids, log in zip(continuations, logs, strict=True):
            whole = candidate.logprobs(context + ids)[len(context) - 1 : -1]
            assert log.shape == (len(ids),)
            np.testing.assert_allclose(log, whole[np.arange(len(ids)), ids], atol=2e-4)


def test_texts_after_contexts_are_the_same_to_the_last_digit_whatever_was_asked_before(candidate):
    first = candidate.branch_logprobs(ASKED)
    candidate.branch_logprobs(ASKED[1:])
    for one, again in zip(first, candidate.branch_logprobs(ASKED), strict=True):
        assert all(np.array_equal(log, other) for log, other in zip(one, again, strict=True))


def prompts(candidate):
    return [candidate.prompt_ids(chat) for chat in CHATS]


def test_answers_that_are_given_together_are_those_that_are_given_alone(candidate):
    together = candidate.answers(prompts(candidate), LONG)
    assert together == [
        candidate.answers([ids], [new])[0] for ids, new in zip(prompts(candidate), LONG, strict=True)
    ]
    assert together == candidate.answers(prompts(candidate), LONG)
    assert len(set(together)) > 1


def test_answers_are_the_most_probable_tokens_of_plain_passes_up_to_the_end_of_text(candidate):
    """Token by token from whole passes: nothing padded, shared or kept."""
    ids = prompts(candidate)[1]
    text = list(ids)
    for _ in range(LONG[1]):
        text.append(int(candidate.logprobs(text)[-1].argmax()))
    assert text[len(ids) :] == candidate.greedy(ids, LONG[1]), "no end of text among them"
    said = candidate.answers([ids, prompts(candidate)[3]], [LONG[1], 3])[0]
    assert said == candidate.answers([ids], [LONG[1]])[0]
    assert said


def test_what_prompts_have_in_common_is_read_once_where_it_is_worth_it():
    shared = list(range(20))
    assert in_common([[*shared, 1, 2], [*shared, 3]]) == 20
    assert in_common([shared, [*shared, 3]]) == 19, "the last token of each is read for its logits"
    assert in_common([[*shared[:10], 1], [*shared[:10], 3]]) == 0
    assert in_common([shared]) == 0


@pytest.mark.parametrize("candidate", [("continuous", ""), ("generate", "")], indirect=True, ids=" ".join)
def test_what_predict_answers_is_what_is_measured(candidate):
    """The packaged class itself, by its own way of reading a chat, decoding and ending."""
    asked = {"temperature": 0.0, "deterministic": True}
    said = [
        candidate._loaded.predict({"messages": chat, "max_tokens": new, **asked})[0]["choices"][0]["message"]
        for chat, new in zip(CHATS, LONG, strict=True)
    ]
    assert [one["content"] for one in said] == candidate.answers(prompts(candidate), LONG)


def test_positions_that_are_decoded_one_by_one_are_what_a_whole_pass_gives(candidate):
    ids = [1, *range(40, 200)]
    decoded = candidate.decode_logprobs(ids, 100)
    assert decoded.shape == (len(ids) - 100, candidate.logprobs(ids).shape[1])
    np.testing.assert_allclose(decoded, candidate.logprobs(ids)[100:], atol=2e-4)
    assert np.array_equal(decoded, candidate.decode_logprobs(ids, 100))


@pytest.mark.parametrize(("architecture", "window"), [("llama", 0), ("qwen3", 0), ("gemma3", 64)])
def test_a_pipeline_of_every_architecture_answers_together_as_alone(
    make_model, store, tmp_path, architecture, window
):
    """Some of Gemma's layers see a window of the text only, here one that is shorter than the contexts."""
    folder = tmp_path / "model"
    shutil.copytree(make_model(f"model.source.architecture={architecture}"), folder)
    if window:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"sliding_window": window}))
    with mlflow.start_run():
        model_id = log_pipeline_model(folder, "tiny", tmp_path / "scratch", {})
    made = load("pipeline", f"models:/{model_id}")
    asked = prompts(made)
    together = made.answers(asked, LONG)
    assert together == [made.answers([ids], [new])[0] for ids, new in zip(asked, LONG, strict=True)]
    text = list(asked[0])
    for _ in range(LONG[0]):
        text.append(int(made.logprobs(text)[-1].argmax()))
    assert made.greedy(asked[0], LONG[0]) == text[len(asked[0]) :]
    for (context, continuations), logs in zip(ASKED, made.branch_logprobs(ASKED), strict=True):
        for ids, log in zip(continuations, logs, strict=True):
            whole = made.logprobs(context + ids)[len(context) - 1 : -1]
            np.testing.assert_allclose(log, whole[np.arange(len(ids)), ids], atol=2e-4)
