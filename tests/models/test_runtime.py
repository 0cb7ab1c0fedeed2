"""The runtime that ships, asked as users ask, by both engines on a real exported model."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.models.slm_runtime.errors import BadRequestError, CancelledError, OverloadedError, TimedOutError
from slmflow.models.slm_runtime.runtime import Options, Runtime
from slmflow.models.slm_runtime.sampling import Sampling
from slmflow.models.slm_runtime.scheduler import Limits

CHAT = [{"role": "user", "content": "Hello"}]


def tokens(runtime, ids, **sampling):
    return list(runtime.tokens(ids, Sampling(ignore_eos=True, **sampling)))


def score(runtime, ids, chunk=128):
    return runtime.scheduler.call(lambda engine: engine.score(ids, chunk))


def test_a_prompt_gets_text_and_a_chat_gets_an_openai_object(ask):
    assert isinstance(ask(prompt="Once"), str)
    reply = ask(messages=CHAT)
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    usage = reply["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_a_completion_is_openais_text_completion(ask):
    reply = ask("completion", prompt="Once", max_tokens=4, logprobs=2)
    assert reply["object"] == "text_completion"
    choice = reply["choices"][0]
    assert choice["text"] == ask(prompt="Once", max_tokens=4)
    assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["top_logprobs"]) == 4


def test_greedy_is_the_argmax_of_the_logits(runtime):
    ids = runtime.tokenizer.encode("The ferry left the harbour")
    said = tokens(runtime, ids, max_tokens=4)
    for count, token in enumerate(said):
        assert int(score(runtime, ids + said[:count])[-1].argmax()) == token


def test_prefill_in_chunks_gives_the_logits_of_one_pass(runtime):
    ids = runtime.tokenizer.encode("The ferry left the harbour a little after six. " * 8)[:200]
    whole = score(runtime, ids, len(ids))
    np.testing.assert_allclose(score(runtime, ids, 64), whole, atol=1e-4)
    np.testing.assert_allclose(score(runtime, ids, 1), whole, atol=1e-4)


def test_both_engines_compute_the_same_logits(tiny_onnx):
    ids = list(range(5, 150))
    scores = []
    for engine in ("generate", "continuous"):
        one = Runtime(tiny_onnx, Options("tiny", engine=engine))
        scores.append(score(one, ids))
        one.close()
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_the_same_seed_repeats_and_another_seed_does_not(runtime):
    ids = runtime.tokenizer.encode("Once upon")
    first, again, other = (
        tokens(runtime, ids, max_tokens=16, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_threads_that_ask_at_once_get_their_own_answers(ask):
    prompts = [f"Number {index} is" + " very" * index for index in range(24)]
    alone = [ask(prompt=prompt, max_tokens=4 + index % 7) for index, prompt in enumerate(prompts)]
    together = [""] * len(prompts)

    def work(index):
        together[index] = ask(prompt=prompts[index], max_tokens=4 + index % 7)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_stream_is_the_answer_in_pieces(runtime, ask):
    whole = ask(messages=CHAT, max_tokens=12)
    chunks = list(runtime.stream(runtime.read({"messages": CHAT, "max_tokens": 12})))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [
        whole["choices"][0]["finish_reason"]
    ]
    assert "".join(runtime.stream(runtime.read({"prompt": "Once"}))) == ask(prompt="Once")


def test_a_stream_tells_its_usage_when_asked_to(runtime):
    body = {"messages": CHAT, "max_tokens": 3, "stream_options": {"include_usage": True}}
    last = list(runtime.stream(runtime.read(body)))[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] <= 3


def test_a_generation_that_is_left_in_the_middle_stops_working(runtime):
    stream = runtime.tokens(list(range(5, 15)), Sampling(max_tokens=400, ignore_eos=True))
    next(stream)
    stream.close()
    deadline = time.monotonic() + 10
    while runtime.scheduler.stats()["running"]:
        assert time.monotonic() < deadline
    assert len(tokens(runtime, [7, 8], max_tokens=4)) == 4


def test_a_stop_text_ends_and_is_cut_off(ask):
    text = ask(prompt="Once upon", max_tokens=12)
    stop = text[3:5]
    assert ask(prompt="Once upon", max_tokens=12, stop=stop) == text[: text.find(stop)]
    reply = ask(messages=CHAT, stop=["", "never in there"], max_tokens=3)
    assert reply["usage"]["completion_tokens"] <= 3


def test_n_answers_with_a_seed_differ_and_repeat(ask):
    row = {"messages": CHAT, "n": 2, "temperature": 1.0, "seed": 7, "max_tokens": 12}
    first, again = (ask(**row)["choices"] for _ in range(2))
    assert [choice["index"] for choice in first] == [0, 1]
    assert first == again
    assert first[0]["message"] != first[1]["message"]


def test_log_probabilities_are_those_of_the_model(runtime, ask):
    ids = runtime.tokenizer.encode_chat(CHAT)
    reply = ask(messages=CHAT, max_tokens=1, logprobs=True, top_logprobs=3, temperature=0.9, seed=1)
    told = reply["choices"][0]["logprobs"]["content"][0]
    logits = score(runtime, ids)[-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert [one["logprob"] for one in told["top_logprobs"]] == pytest.approx(sorted(logs)[::-1][:3], abs=1e-4)


def test_a_penalty_keeps_tokens_from_coming_back(runtime):
    ids = runtime.tokenizer.encode("a a a a a")
    assert (
        len(set(tokens(runtime, ids, max_tokens=40, presence_penalty=2.0, frequency_penalty=2.0)))
        > len(set(tokens(runtime, ids, max_tokens=40)))
        or len(set(tokens(runtime, ids, max_tokens=40))) == 40
    )


def test_the_next_turn_of_a_chat_reads_only_what_is_new(ask):
    long = [{"role": "user", "content": "Tell me of ferries and harbours. " * 4}]
    first = ask(messages=long, max_tokens=4)
    answer = first["choices"][0]["message"]
    turn = [*long, answer, {"role": "user", "content": "And?"}]
    second = ask(messages=turn, max_tokens=1)
    fresh = ask(messages=turn, max_tokens=1, deterministic=True)
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 32
    assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["choices"][0]["message"] == fresh["choices"][0]["message"]


def test_tokens_for_measurements_are_read_anew_each_time(runtime):
    before = runtime.scheduler.stats()["cached_tokens_total"]
    prompt = list(range(5, 69))
    assert tokens(runtime, prompt, max_tokens=4) == tokens(runtime, prompt, max_tokens=4)
    assert runtime.scheduler.stats()["cached_tokens_total"] == before


def test_a_deadline_ends_a_request_and_frees_the_engine(tiny_onnx):
    runtime = Runtime(tiny_onnx, Options("tiny", engine="continuous", timeout=0.001))
    with pytest.raises(TimedOutError, match="no whole answer within"):
        tokens(runtime, [5, 6], max_tokens=500)
    runtime.close()


def test_a_full_queue_refuses_and_what_runs_goes_on(tiny_onnx):
    limits = Limits(rows=1, waiting=1)
    runtime = Runtime(tiny_onnx, Options("tiny", engine="continuous", limits=limits))
    first = runtime.tokens([5, 6], Sampling(max_tokens=480, ignore_eos=True))
    next(first)
    heard = []
    request = runtime.read({"prompt": "a"})
    runtime.submit(request, heard.append)
    with pytest.raises(OverloadedError, match="1 requests wait already"):
        runtime.submit(request, heard.append)
    assert len(list(first)) == 479
    runtime.close()


def test_memory_for_keys_and_values_is_bounded_and_the_bound_is_named(tiny_onnx):
    runtime = Runtime(tiny_onnx, Options("tiny", engine="continuous", limits=Limits(kv_bytes=20_000)))
    with pytest.raises(BadRequestError, match=r"needs \d+ MB of keys and values, more than the 0 MB allowed"):
        tokens(runtime, [5, 6], max_tokens=500)
    assert len(tokens(runtime, [5], max_tokens=2)) == 2
    runtime.close()


def test_closing_tells_those_who_wait(tiny_onnx):
    runtime = Runtime(tiny_onnx, Options("tiny", engine="continuous"))
    thread, heard = runtime.scheduler._thread, []

    def close_at_once(told):
        heard.append(told)
        runtime.close()

    runtime.submit(runtime.read({"prompt": "Once", "max_tokens": 400}), close_at_once)
    thread.join(10)
    assert "unloaded" in str(heard[-1].error)
    assert isinstance(heard[-1].error, OverloadedError)
    with pytest.raises(OverloadedError, match="unloaded"):
        runtime.answer(runtime.read({"prompt": "a"}))


def test_a_runtime_that_nobody_holds_ends_its_thread(tiny_onnx):
    runtime = Runtime(tiny_onnx, Options("tiny", engine="continuous"))
    thread = runtime.scheduler._thread
    gone = weakref.ref(runtime)
    del runtime
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_cancelled_request_is_told_so(runtime):
    heard = []
    job, _ = runtime.submit(runtime.read({"prompt": "Once", "max_tokens": 400}), heard.append)
    job.cancel()
    deadline = time.monotonic() + 10
    while not heard or not hasattr(heard[-1], "error"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert isinstance(heard[-1].error, CancelledError) or heard[-1].error is None


def test_an_answer_in_json_obeys_its_schema(ask):
    import json

    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    for seed in range(3):
        reply = ask(messages=CHAT, response_format=form, max_tokens=40, temperature=1.0, seed=seed)
        said = json.loads(reply["choices"][0]["message"]["content"])
        assert set(said) == {"a", "b"}
        assert isinstance(said["a"], bool)
        assert said["b"] in "xy"
        assert reply["choices"][0]["finish_reason"] == "stop"


def test_there_is_at_least_one_physical_core():
    assert physical_cores() >= 1
