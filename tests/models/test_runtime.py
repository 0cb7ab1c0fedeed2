"""The runtime that ships: requests, templates, tokens and the engine, on a real exported model."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.models.slm_runtime.chat import answer, read
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.models.slm_runtime.engine import GenerateEngine, Sampling
from slmflow.models.slm_runtime.template import render
from slmflow.models.slm_runtime.tokenizer import TextTokenizer

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return GenerateEngine(tiny_onnx)


@pytest.fixture(scope="module")
def tokenizer(tiny_onnx):
    return TextTokenizer(tiny_onnx)


def ask(engine, tokenizer, **row):
    return answer(read(row, Sampling(max_tokens=8), engine, tokenizer), engine, tokenizer, "tiny")


def test_a_prompt_gets_text_and_a_chat_gets_an_openai_object(engine, tokenizer):
    assert isinstance(ask(engine, tokenizer, prompt="Once"), str)
    reply = ask(engine, tokenizer, messages=CHAT)
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    usage = reply["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_greedy_is_the_argmax_of_the_logits(engine, tokenizer):
    ids = tokenizer.encode("The ferry left the harbour")
    tokens = list(engine.generate(ids, Sampling(max_tokens=4, ignore_eos=True)))
    for count, token in enumerate(tokens):
        assert int(engine.logits(ids + tokens[:count])[-1].argmax()) == token


def test_prefill_in_chunks_gives_the_logits_of_one_pass(engine, tokenizer):
    ids = tokenizer.encode("The ferry left the harbour a little after six, when the light was grey. " * 4)[
        :200
    ]
    whole = engine.logits(ids, chunk=len(ids))
    np.testing.assert_allclose(engine.logits(ids, chunk=64), whole, atol=1e-4)
    np.testing.assert_allclose(engine.logits(ids, chunk=1), whole, atol=1e-4)


def test_the_same_seed_repeats_and_another_seed_does_not(engine, tokenizer):
    ids = tokenizer.encode("Once upon")
    first, again, other = (
        list(engine.generate(ids, Sampling(max_tokens=16, temperature=1.0, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_threads_that_ask_at_once_get_their_own_answers(engine, tokenizer):
    prompts = [f"Number {index} is" for index in range(12)]
    alone = [ask(engine, tokenizer, prompt=prompt) for prompt in prompts]
    together = [""] * len(prompts)

    def work(index):
        together[index] = ask(engine, tokenizer, prompt=prompts[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_generation_that_is_left_in_the_middle_frees_the_engine(engine, tokenizer):
    ids = tokenizer.encode("Once upon")
    stream = engine.generate(ids, Sampling(max_tokens=16, ignore_eos=True))
    next(stream)
    stream.close()
    assert len(list(engine.generate(ids, Sampling(max_tokens=4, ignore_eos=True)))) == 4


def test_a_stop_text_ends_and_is_cut_off(engine, tokenizer):
    text = ask(engine, tokenizer, prompt="Once upon", max_tokens=12)
    stop = text[3:5]
    assert ask(engine, tokenizer, prompt="Once upon", max_tokens=12, stop=stop) == text[: text.find(stop)]
    reply = ask(engine, tokenizer, messages=CHAT, stop=["", "never in there"], max_tokens=3)
    assert reply["usage"]["completion_tokens"] <= 3


def test_n_answers_with_a_seed_differ_and_repeat(engine, tokenizer):
    row = {"messages": CHAT, "n": 2, "temperature": 1.0, "seed": 7, "max_tokens": 12}
    first, again = (ask(engine, tokenizer, **row)["choices"] for _ in range(2))
    assert [choice["index"] for choice in first] == [0, 1]
    assert first == again
    assert first[0]["message"] != first[1]["message"]


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(engine, tokenizer):
    with pytest.raises(ValueError, match=r"2 tokens and max_tokens is 511.* context of 512"):
        list(engine.generate([1, 2], Sampling(max_tokens=511)))
    with pytest.raises(ValueError, match="the prompt is empty"):
        ask(engine, tokenizer, prompt="")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "either `prompt`"),
        ({"prompt": "a", "messages": CHAT}, "not both"),
        ({"prompt": 5}, "prompt must be text, not int"),
        ({"prompt": float("nan")}, "either `prompt`"),
        ({"messages": []}, "messages must be a list of at least one"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "other than {type: text"),
        ({"prompt": "a", "stop": 5}, "stop=5 must be a text or a list of texts"),
        ({"prompt": "a", "stop": [None]}, "must be a text or a list of texts"),
        ({"prompt": "a", "max_tokens": 512}, "context of 512"),
        ({"prompt": "a", "max_completion_tokens": 0}, "max_completion_tokens=0"),
        ({"messages": ["hi"]}, "each message must be an object"),
        ({"messages": [{"role": "user", "content": None}]}, "content of a message must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "other than {type: text"),
        ({"prompt": "a", "temperature": 3}, "temperature=3 must be a number from 0 to 2"),
        ({"prompt": "a", "temperature": "hot"}, "temperature='hot'"),
        ({"prompt": "a", "top_p": 1.5}, r"top_p=1\.5 must be a number from 0 to 1"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens=0"),
        ({"prompt": "a", "max_tokens": 1.5}, r"max_tokens=1\.5 must be a whole number"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens=True"),
        ({"prompt": "a", "n": 99}, "n=99"),
        ({"prompt": "a", "stream": True}, "stream=true"),
    ],
)
def test_a_bad_request_is_refused_with_the_field_and_what_is_allowed(engine, tokenizer, row, said):
    with pytest.raises(ValueError, match=said):
        read(row, Sampling(), engine, tokenizer)


def test_a_default_gives_way_to_the_room_that_is_left(engine, tokenizer):
    assert read({"prompt": "a" * 400}, Sampling(), engine, tokenizer).sampling.max_tokens < 256


def test_a_top_p_of_zero_is_greedy(engine, tokenizer):
    greedy = ask(engine, tokenizer, prompt="Once upon")
    assert {ask(engine, tokenizer, prompt="Once upon", temperature=2, top_p=0) for _ in range(4)} == {greedy}


def test_what_openai_clients_send_is_accepted(engine, tokenizer):
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "temperature": None}
    row |= {"stop": None, "stream": False, "seed": 2**62, "max_completion_tokens": 5.0}
    request = read(row, Sampling(), engine, tokenizer)
    assert request.ids == tokenizer.encode_chat([{"role": "user", "content": "a"}])
    assert request.sampling.max_tokens == 5


def test_a_template_runs_in_a_sandbox_and_says_why_it_refuses():
    with pytest.raises(ValueError, match="refused the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}", CHAT)
    with pytest.raises(ValueError, match="unsafe"):
        render("{{ ''.__class__.__mro__ }}", CHAT)


def test_templates_that_hugging_face_renders_are_rendered_the_same():
    template = (
        "{% if tools is not none %}T{% endif %}{% generation %}{{ messages[0].content }}{% endgeneration %}"
    )
    assert render(template, CHAT) == "Hello"


def test_markup_in_a_message_is_neither_rendered_nor_escaped(tokenizer):
    prompt = tokenizer.prompt_of([{"role": "user", "content": "{{ 7 * 7 }} <b>&</b>"}])
    assert "{{ 7 * 7 }} <b>&</b>" in prompt


@given(text=st.text(max_size=200))
def test_text_survives_the_way_into_ids_and_back(tokenizer, text):
    if "<|" not in text:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_there_is_at_least_one_physical_core():
    assert physical_cores() >= 1
