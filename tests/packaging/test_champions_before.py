"""What the commit before packaged goes on: in this project, and in its own requirements.

`champions_before.tar.xz` has both champions of a run of commit 52a3412 (transformers 4.57.6,
onnxruntime-genai 0.15.2), with what they answered and how they were evaluated:

    mlflow run . --env-manager local -P model=<folder> -P model.name=tiny-before -P export=int8_cpu -P evaluate=quick

The folder was `tiny_phi3` with a width of 32 and a tied head, in bf16, its matrices multiplied so that
answers differ: the pipeline's weights are those.
"""

import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from slmflow.environments.maker import Purpose, environment
from slmflow.quality.candidates import load
from slmflow.quality.fidelity import kl_divergence, log_softmax
from slmflow.quality.reference import reference_logits
from slmflow.text import shipped_text
from tests.conftest import make_store, store_uri
from tests.scoring.conftest import read, score
from tests.serving.live.conftest import Live

HERE = Path(__file__).parent
PURPOSE = Purpose("a champion of the commit before", "")
PACKAGED_CLASS = """
import json, sys
import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
said = [model.predict(request)[0] for request in json.loads(sys.argv[2])]
print(json.dumps([text if isinstance(text, str) else text["choices"][0]["message"]["content"] for text in said]))
"""
PIPELINE = """
import json, sys
import mlflow, torch

loaded = mlflow.transformers.load_model(sys.argv[1])
found = []
for prompt in json.loads(sys.argv[2]):
    ids = torch.tensor([prompt])
    made = loaded.model.generate(ids, attention_mask=ids * 0 + 1, max_new_tokens=12, do_sample=False)
    found.append(made[0, len(prompt):].tolist())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The folder with `onnx` and `pipeline`, and what was recorded."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(HERE / "champions_before.tar.xz") as archive:
        archive.extractall(folder)
    return folder, json.loads((folder / "answers.json").read_text())


def in_its_own_requirements(folder, program, asked):
    """What a model says where only its packaged requirements are installed."""
    own = environment((folder / "requirements.txt").read_text(), PURPOSE, is_locked=False)
    done = subprocess.run(
        [own.python, "-I", "-c", program, folder, json.dumps(asked)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return own, json.loads(done.stdout.splitlines()[-1])


def test_the_onnx_champion_answers_the_same_in_its_own_requirements_served_and_scored(before, tmp_path):
    folder, recorded = before
    asked = [answer["request"] for answer in recorded["onnx"]["answers"]]
    own, said = in_its_own_requirements(folder / "onnx", PACKAGED_CLASS, asked)
    assert {"onnxruntime-genai==0.15.2", "tokenizers==0.22.2"} <= set(own.installed)
    assert said == [answer["text"] for answer in recorded["onnx"]["answers"]]

    make_store(tmp_path)
    live = Live(tmp_path, str(folder / "onnx"))
    try:
        chat = live.text(messages=asked[2]["messages"], max_tokens=12)
        prompts = [
            live.ask("/v1/completions", **request).json()["choices"][0]["text"] for request in asked[:2]
        ]
    finally:
        live.stop()
    assert [*prompts, chat] == said

    table = tmp_path / "in.jsonl"
    table.write_text("".join(json.dumps({"prompt": request["prompt"]}) + "\n" for request in asked[:2]))
    status, told = score(
        store_uri(tmp_path), table, tmp_path / "out.jsonl", "score.max_tokens=12", model=str(folder / "onnx")
    )
    assert status == 0, told
    assert [row["text"] for row in read(tmp_path / "out.jsonl")] == said[:2]


def test_the_pipeline_champion_answers_the_same_in_its_own_requirements_and_here(before):
    folder, recorded = before
    answers = recorded["pipeline"]["answers"]
    prompts = [answer["prompt_tokens"] for answer in answers]
    own, said = in_its_own_requirements(folder / "pipeline", PIPELINE, prompts)
    assert {"transformers==4.57.6", "tokenizers==0.22.2"} <= set(own.installed)
    assert not [line for line in own.installed if line.startswith("torch")]
    candidate = load("pipeline", str(folder / "pipeline"))
    assert [candidate.greedy(prompt, 12) for prompt in prompts] == said
    assert said == [answer["tokens"] for answer in answers]
    chat = answers[2]["request"]["messages"]
    assert candidate.prompt_ids(chat) == prompts[2]
    assert [candidate.encode(answer["request"]["prompt"]) for answer in answers[:2]] == prompts[:2]


@pytest.mark.parametrize("kind", ["onnx", "pipeline"])
def test_a_champion_of_before_is_evaluated_as_it_was(before, kind):
    folder, recorded = before
    candidate = load(kind, str(folder / kind))
    ids = candidate.encode(shipped_text())[:384]
    reference = log_softmax(np.stack(next(reference_logits(folder / "pipeline" / "model", [ids]))))
    kl = kl_divergence(reference, candidate.logprobs(ids)).mean()
    then = recorded[kind]["evaluation"]["fidelity"]["kl_mean"]
    assert kl == pytest.approx(then, rel=0.3)
    decoded = candidate.decode_logprobs(ids[:40], 32)
    assert np.abs(decoded - candidate.logprobs(ids[:40])[32:]).max() < 0.2
    said = candidate.greedy(ids[:20], 6)
    assert len(said) == 6
    assert len(candidate.token_times(ids[:20], 6)) == 6
    answers = candidate.answers([ids[:20], ids[:9]], [6, 3])
    assert all(isinstance(answer, str) for answer in answers)
    (logs,) = candidate.branch_logprobs([(ids[:20], [said, [5, 6]])])
    assert [len(one) for one in logs] == [6, 2]
