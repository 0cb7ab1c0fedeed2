"""A replay of real traces of a real packaged model: what is asked, what is left, and what goes wrong."""

import json
import os
import re
import signal
import subprocess

import mlflow
import pytest

from slmflow.commands import replay
from slmflow.errors import SlmflowError
from slmflow.files import cache_folder
from slmflow.monitoring import asking
from slmflow.monitoring.asking import Asker, ask_all
from slmflow.monitoring.traces import read_traces
from tests import warm
from tests.conftest import ROOT, run_warm
from tests.monitoring.conftest import ASKED, SECRETS
from tests.serving.live.conftest import Live


def replayed(client, **overrides):
    """The artifacts of a replay as texts by name, and its run."""
    words = " ".join(f"monitoring.{name}={value}" for name, value in overrides.items())
    assert replay.run(["traces=Default", "model=tiny_phi3", f"overrides={words}"]) == 0
    [run, *_] = client.search_runs(["0"], filter_string="tags.`slmflow.kind` = 'command'", max_results=1)
    assert run.info.status == "FINISHED"
    folder = run.info.artifact_uri.removeprefix("file://")
    return {name: open(f"{folder}/{name}").read() for name in sorted(os.listdir(folder))}, run


def count_traces(client):
    return len(client.search_traces(locations=["0"], max_results=500))


def read(client, wanted=200, models=frozenset()):
    return read_traces("0", wanted, set(models), {}, lambda run: False)


def test_a_trace_holds_the_request_as_asked_without_who_asked(production):
    traces = production.search_traces(locations=["0"], max_results=500)
    spans = [trace.data.spans[0] for trace in traces]
    assert {json.dumps(span.inputs, sort_keys=True) for span in spans} == {
        json.dumps({name: value for name, value in body.items() if name != "user"}, sort_keys=True)
        for body in ASKED
    }
    assert {span.get_attribute("gen_ai.response.finish_reasons")[0] for span in spans} <= {"stop", "length"}


def test_a_champion_alone_answers_as_production_did_and_leaves_no_trace(production, capsys):
    before = count_traces(production)
    files, run = replayed(production, challenger="none")
    assert sorted(files) == ["answers.jsonl", "replay.html", "replay.json", "replay.jsonl", "replay.md"]
    report = json.loads(files["replay.json"])
    [time, now] = report["comparisons"]
    assert (time["name"], now["name"]) == ("over time", "champion now")
    assert now["identical"] == 1.0, "the same model, greedy, of requests that were not redacted"
    assert not any(test["drifted"] for test in now["tests"])
    assert report["rows"] == len(ASKED)
    assert report["conclusion"] in capsys.readouterr().out
    assert count_traces(production) == before
    assert run.data.metrics["champion.errors"] == 0
    assert run.inputs.dataset_inputs[0].dataset.digest == report["dataset_digest"][:36]
    assert not list((cache_folder() / "replays").iterdir()), "the journal goes when the replay is whole"


def test_a_challenger_that_answers_otherwise_is_said_to(production):
    production.set_registered_model_alias("tiny-phi3-onnx", "challenger", "2")
    files, _ = replayed(production)
    report = json.loads(files["replay.json"])
    assert report["models"] == {
        "champion": "tiny-phi3-onnx version 1",
        "challenger": "tiny-phi3-onnx version 2",
    }
    assert report["comparisons"][2]["identical"] < 0.5
    assert report["figures"]["challenger"]["errors"] == 0
    assert "answers that differ" in files["replay.html"]


def test_no_secret_is_left_anywhere_and_placeholders_are_asked(production, traced_store):
    files, run = replayed(production, challenger="none")
    told = "".join(files.values()) + json.dumps(run.to_dictionary(), default=str)
    told += json.dumps([item.to_dictionary() for item in run.inputs.dataset_inputs])
    for name, secret in SECRETS.items():
        assert secret not in told
        assert f"[{name}]" in files["replay.jsonl"]
    assert '"ada"' not in told
    assert json.loads(files["replay.json"])["redacted"] == {"CARD": 1, "EMAIL": 1, "SECRET": 1}


def test_the_same_traces_give_the_same_bytes(production):
    first, _ = replayed(production, challenger="none")
    second, _ = replayed(production, challenger="none")
    assert first["replay.jsonl"] == second["replay.jsonl"]
    answers = [re.sub(r'"seconds": [0-9.e-]+', "", files["answers.jsonl"]) for files in (first, second)]
    assert len(set(answers)) == 1


def test_the_newest_are_taken_and_kept_in_order(production):
    every, newest = read(production).rows, read(production, 5).rows
    assert newest == every[-5:]
    assert [row.began for row in every] == sorted(row.began for row in every)


def test_json_is_judged_where_it_was_asked_for(production):
    rows = read(production).rows
    judged = [row.production.json_valid for row in rows if row.production.json_valid is not None]
    assert len(judged) == 2
    assert True in judged, "the one that a grammar kept to"


def test_what_cannot_be_replayed_is_counted_with_its_reason(store):
    from mlflow import MlflowClient

    @mlflow.trace
    def other(question):
        return question

    @mlflow.trace(span_type="CHAT_MODEL")
    def model(messages, max_tokens):
        raise ValueError(f"no answer for {messages[0]['content']}")

    other("x")
    with (
        mlflow.start_run(tags={"slmflow.kind": "step"}) as step,
        mlflow.start_span("x", span_type="CHAT_MODEL") as span,
    ):
        span.set_inputs({"prompt": "measured"})
    with mlflow.start_span("x", span_type="CHAT_MODEL") as span:
        span.set_inputs({"prompt": [1, 2]})
    with mlflow.start_span("x", span_type="CHAT_MODEL") as span:
        span.set_inputs({"prompt": "a", "max_tokens": "ada@example.org"})
    with pytest.raises(ValueError, match="no answer"):
        model([{"role": "user", "content": "ada@example.org"}], 4)
    mlflow.flush_trace_async_logging()
    found = read_traces("0", 10, set(), {}, lambda run: run == step.info.run_id)
    assert found.skipped == {
        "its inputs hold neither messages nor a prompt": 1,
        "made by a run of this project, not by production": 1,
        "its prompt is no text": 1,
        "a number of its request is no number": 1,
    }
    [row] = found.rows
    assert "[EMAIL]" in row.production.error
    assert "ada" not in row.production.error
    assert len(MlflowClient().search_traces(locations=["0"])) == found.read == 5


def test_traces_of_another_model_are_left_out(production):
    found = read(production, models={"m-other"})
    assert (found.rows, found.skipped) == ([], {"answered by another model": len(ASKED)})


def test_several_calls_in_one_trace_are_rows_of_their_own(store):
    with mlflow.start_span("agent"):
        for number in range(2):
            with mlflow.start_span("x", span_type="CHAT_MODEL") as span:
                span.set_inputs({"messages": [{"role": "user", "content": str(number)}]})
                calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
                message = {"role": "assistant", "content": None, "tool_calls": calls}
                span.set_outputs({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    mlflow.flush_trace_async_logging()
    rows = read(None).rows
    assert [row.id[-2:] for row in rows] == ["#1", "#2"]
    assert not rows[0].production.empty
    assert rows[0].production.text == '[{"name": "f", "arguments": "{}"}]'


def test_a_request_that_fails_is_one_row_of_errors(production, tmp_path):
    rows = read(production, 3).rows
    rows[1].request["temperature"] = 9
    with Asker("models:/tiny-phi3-onnx/1", tmp_path) as asker:
        calls = ask_all(asker, rows, 0, {}, tmp_path / "journal", "champion")
    errors = [call.error for call in calls.values()]
    assert errors[0] is None
    assert "temperature" in errors[1]
    assert errors[2] is None


def test_it_goes_on_after_a_crash_with_a_torn_last_line(production, tmp_path):
    rows, journal = read(production, 6).rows, tmp_path / "journal"
    with Asker("models:/tiny-phi3-onnx/1", tmp_path) as asker:
        whole = ask_all(asker, rows, 0, {}, journal, "champion")
    lines = journal.read_text().splitlines(keepends=True)
    marked = [line.replace('"text": "', '"text": "kept ') for line in lines[:3]]
    journal.write_text("".join(marked) + lines[3][: len(lines[3]) // 2])
    with Asker("models:/tiny-phi3-onnx/1", tmp_path) as asker:
        again = ask_all(asker, rows, 0, {}, journal, "champion")
    texts = [(whole[row.id].text, again[row.id].text) for row in rows]
    assert [new for _, new in texts[:3]] == [f"kept {old}" for old, _ in texts[:3]]
    assert all(new == old for old, new in texts[3:])
    assert len(journal.read_text().splitlines()) == 6


class Killer(Asker):
    """Ends its process before one request."""

    def __init__(self, *arguments, at):
        super().__init__(*arguments)
        self.asked, self.at = 0, at

    def ask(self, body):
        self.asked += 1
        if self.asked in self.at and self._process:
            os.kill(warm.fork_of(self._process.pid), signal.SIGKILL)
        return super().ask(body)


def test_a_process_that_dies_costs_one_row(production, tmp_path):
    rows = read(production, 5).rows
    with Killer("models:/tiny-phi3-onnx/1", tmp_path, at={3}) as asker:
        calls = ask_all(asker, rows, 0, {}, tmp_path / "journal", "champion")
    errors = [call.error for call in calls.values()]
    assert [bool(error) for error in errors] == [False, True, False, False, False]
    assert "ended with status -9" in errors[1]


def test_a_model_that_never_answers_in_time_ends_the_replay_with_a_line(production, tmp_path):
    rows = read(production, 5).rows
    for row in rows:  # none is so quick that it answers before a busy machine has looked at the clock
        row.request.update(max_tokens=400, ignore_eos=True)
    refused = pytest.raises(
        SlmflowError, match=r"3 requests in a row got no answer: no answer after 0.001 seconds"
    )
    with Asker("models:/tiny-phi3-onnx/1", tmp_path, 1e-3) as asker, refused:
        ask_all(asker, rows, 0, {}, tmp_path / "journal", "champion")
    assert len((tmp_path / "journal").read_text().splitlines()) == asking.STARTS - 1


def test_a_model_that_cannot_be_loaded_is_named(production, tmp_path):
    rows = read(production, 1).rows
    with (
        Asker("models:/tiny-phi3-onnx/9", tmp_path) as asker,
        pytest.raises(SlmflowError, match=r"onnx/9: cannot be loaded"),
    ):
        ask_all(asker, rows, 0, {}, tmp_path / "journal", "champion")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["traces=nowhere"], "traces=nowhere: there is no experiment"),
        (["traces=Default", "logged_run=" + "0" * 32], "leave logged_run out"),
        (
            ["traces=Default", "model=tiny_phi3", "overrides=monitoring.challenger=models:/nobody/77"],
            r"monitoring.challenger=models:/nobody/77: the registry says: .*nobody",
        ),
        (["traces=Default", "model=smollm2_135m"], r"monitoring.champion=models:/smollm2-135m-onnx@champion"),
        (["traces=Default", "overrides=monitoring.limit=0"], "monitoring.limit=0 is out of range"),
        (
            ["traces=Default", "overrides=monitoring.rules=/none.yaml"],
            "monitoring.rules=/none.yaml: cannot be read",
        ),
        (
            ["traces=Default", "model=tiny_phi3", "overrides=monitoring.challenger=models:/x@y"],
            "monitoring.challenger=models:/x@y",
        ),
    ],
)
def test_bad_words_are_refused_before_any_run_is_made(production, words, said):
    before = len(production.search_runs(["0"], max_results=500))
    with pytest.raises(SlmflowError, match=said):
        replay.run(words)
    assert len(production.search_runs(["0"], max_results=500)) == before


def test_an_experiment_without_traces_is_refused_in_a_line_before_a_run_is_made(production):
    production.create_experiment("empty")
    before = len(production.search_runs(["0"], max_results=500))
    with pytest.raises(SlmflowError, match="traces=empty: none of 0 can be replayed"):
        replay.run(["traces=empty", "model=tiny_phi3"])
    assert len(production.search_runs(["0"], max_results=500)) == before


def test_the_entry_point_evaluate_replays_with_traces(production, traced_store):
    done = run_warm(["-e", "evaluate", "-P", "traces=Default", "-P", "model=tiny_phi3"], traced_store)
    assert done.returncode == 0, done.stderr
    assert "There is no" not in done.stderr
    assert re.search(
        r"The champion answers as production did|the champion answers as production did", done.stdout
    )
    [run, *_] = production.search_runs(["0"], filter_string="tags.`slmflow.kind` = 'command'", max_results=1)
    assert run.data.tags["mlflow.runName"] == "replay"


def test_what_a_server_answered_is_replayed_with_its_stream_made_whole(production, traced_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "served")
    live = Live(traced_store, "models:/tiny-phi3-onnx@champion")
    try:
        live.text(messages=[{"role": "user", "content": "Hello"}], user="ada")
        live.ask(messages=[{"role": "user", "content": "Hello"}], stream=True, max_tokens=8).read()
    finally:
        live.stop()
    served = production.get_experiment_by_name("served").experiment_id
    rows = read_traces(served, 10, set(), {}, lambda run: False).rows
    assert [row.request for row in rows] == [
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    ] * 2
    assert rows[0].production.text == rows[1].production.text
    assert rows[0].model_id.startswith("m-")


def test_the_step_still_refuses_what_it_always_did(store):
    command = [warm.python(), "-m", "steps.evaluate", "traces=", "logged_run=x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "x" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
