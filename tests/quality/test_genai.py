"""Generated answers under `mlflow.genai.evaluate`, on a real store and a real packaged model."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import MetricThreshold

from slmflow.config import PackageConfig
from slmflow.errors import SlmflowError
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.quality.asking import measure_tasks
from slmflow.quality.genai import ENVIRONMENT, log_items, trace_answers
from slmflow.quality.items import Item, Items, read_items
from slmflow.quality.judge import make_judge
from slmflow.quality.onnx_candidate import OnnxCandidate
from tests.free_port import POLL_SECONDS


@pytest.fixture
def items():
    """Three items of each kind, one of which even a random model gets right."""
    rules = [{"rule": "at_most_words", "value": 900}]
    easy = Item("easy", "instruction", {"prompt": "Say something.", "rules": rules})
    kinds: dict[str, list] = {}
    for item in (easy, *read_items("shipped").rows):
        kinds.setdefault(item.kind, []).append(item)
    return Items(tuple(item for rows in kinds.values() for item in rows[:3]))


@pytest.fixture
def logged(store, tiny_onnx, tmp_path):
    """The tiny packaged model's id, and the model as a candidate that counts what it is asked."""

    class Counted(OnnxCandidate):
        asked = 0

        def answers(self, prompts, new_tokens):
            self.asked += len(prompts)
            return super().answers(prompts, new_tokens)

    mlflow.set_experiment("tasks")
    with mlflow.start_run():
        model_id = log_onnx_model(tiny_onnx, "tiny", PackageConfig(), tmp_path / "scratch", {})
    return model_id, Counted(f"models:/{model_id}")


def test_answers_are_traced_judged_and_noted_on_the_model_and_the_rows_are_those_of_the_plain_road(
    logged, items, tmp_path, monkeypatch
):
    model_id, candidate = logged
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    plain = measure_tasks(candidate, items, tmp_path / "plain")
    candidate.asked = 0
    with mlflow.start_run() as run:
        result = trace_answers(candidate, items, tmp_path / "traced", model_id)
        assert candidate.asked == 9, "each generated answer once, also the first"
        rows = measure_tasks(candidate, items, tmp_path / "traced")
    assert candidate.asked == 9, "the rows were taken over"
    assert rows == plain
    assert {row.correct for row in rows if row.kind == "instruction"} == {True, False}
    assert not set(ENVIRONMENT) & set(os.environ), "the environment is as it was"

    shares = {"exact_match/mean": "closed", "rules_kept/mean": "instruction", "valid/mean": "json"}
    for metric, kind in shares.items():
        mine = [row.correct for row in rows if row.kind == kind]
        assert result.metrics[metric] == pytest.approx(sum(mine) / len(mine))
    on_model = {metric.key for metric in mlflow.get_logged_model(model_id).metrics}
    assert set(shares) <= on_model
    traces = mlflow.search_traces(run_id=run.info.run_id, return_type="list")
    by_item = {trace.info.tags["slmflow.item"]: trace for trace in traces}
    assert len(traces) == 9 == len(by_item)
    for row in rows:
        if row.kind != "multiple_choice":
            trace = by_item[row.id]
            assert trace.info.trace_metadata["mlflow.modelId"] == model_id
            assert json.loads(trace.data.response) == row.answer
            verdicts = {found.name: found.value for found in trace.info.assessments}
            assert verdicts.pop("expected") == row.expected
            assert list(verdicts.values()) == [row.correct]


def test_an_interrupted_evaluation_goes_on_and_asks_nothing_twice(logged, items, tmp_path):
    model_id, candidate = logged
    journal = tmp_path / "journal"
    whole = candidate.answers

    def dies(chats, new_tokens):
        if candidate.asked == 4:
            raise RuntimeError("the engine is gone")
        return whole(chats, new_tokens)

    candidate.answers = dies
    with mlflow.start_run(), pytest.raises(RuntimeError, match="the engine is gone"):
        trace_answers(candidate, items, journal, model_id)
    assert candidate.asked == 4
    del candidate.answers
    with journal.open("a") as file:
        file.write('{"id": "torn')
    with mlflow.start_run():
        trace_answers(candidate, items, journal, model_id)
        assert candidate.asked == 9
        rows = measure_tasks(candidate, items, journal)
    assert rows == measure_tasks(candidate, items, tmp_path / "plain")


def test_thresholds_of_mlflow_judge_a_traced_evaluation(logged, items, tmp_path):
    model_id, candidate = logged
    with mlflow.start_run():
        result = trace_answers(candidate, items, tmp_path / "journal", model_id)
    least = MetricThreshold(threshold=float(result.metrics["valid/mean"]), greater_is_better=True)
    mlflow.validate_evaluation_results({"valid/mean": least}, result)
    better = MetricThreshold(min_absolute_change=0.1, greater_is_better=True)
    with pytest.raises(MlflowException, match="minimum absolute change check failed"):
        mlflow.validate_evaluation_results({"valid/mean": better}, result, result)


def test_the_items_are_an_input_of_the_run_with_their_digest_and_the_model(logged, items):
    model_id, _ = logged
    with mlflow.start_run() as run:
        log_items(items, "shipped", model_id)
    (dataset,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("tasks", items.digest[:36])
    assert json.loads(dataset.dataset.source)["tags"] == {"items": "shipped"}
    assert {tag.key: tag.value for tag in dataset.tags}["mlflow.data.context"] == "tasks"


def test_items_without_a_generated_answer_are_refused(logged, items, tmp_path):
    model_id, candidate = logged
    choices = Items(tuple(item for item in items.rows if item.kind == "multiple_choice"))
    with mlflow.start_run(), pytest.raises(SlmflowError, match="no item has an answer to generate"):
        trace_answers(candidate, choices, tmp_path / "journal", model_id)


class Server(ThreadingHTTPServer):
    """Speaks as OpenAI's chat completions do; `say` is asked for each verdict (or a status)."""

    def __init__(self, say):
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.asked = say, []
        threading.Thread(target=self.serve_forever, args=[POLL_SECONDS], daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(405)
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        said = self.server.say(len(self.server.asked))
        status = said if type(said) is int else 200
        verdict = json.dumps({"result": said, "rationale": "so"})
        message = {"role": "assistant", "content": verdict}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        sent = json.dumps(
            {**answer, "usage": usage} if status == 200 else {"error": {"message": "no"}}
        ).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *words):
        pass


@pytest.fixture
def judged_by(monkeypatch):
    """Starts a server and points the judge at it."""
    servers = []

    def start(say):
        servers.append(Server(say))
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{servers[-1].server_port}/v1")
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_named_judge_gives_each_answer_a_verdict(logged, items, tmp_path, judged_by):
    model_id, candidate = logged
    server = judged_by(lambda turn: turn % 2 == 1)
    judge = make_judge("openai:/some-model")
    with mlflow.start_run():
        result = trace_answers(candidate, items, tmp_path / "journal", model_id, judge)
    assert len(server.asked) == 1 + 9
    assert "What is 1 plus 1?" in json.dumps(server.asked[0])
    assert result.metrics["judge/mean"] == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("openai:/m", "OPENAI_API_KEY"),
        ("nobody:/m", "'nobody' is not supported"),
        ("gpt", "Malformed model uri"),
    ],
)
def test_a_judge_that_cannot_be_called_is_refused_in_one_line(monkeypatch, model, why):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SlmflowError, match=why) as refused:
        make_judge(model)
    assert str(refused.value).startswith(f"evaluate.judge={model}: ")
    assert len(str(refused.value).splitlines()) == 1


def test_a_judge_out_of_reach_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(SlmflowError, match="cannot be reached; judges need a network"):
        make_judge("openai:/m")


def test_a_judge_that_refuses_the_key_is_refused_before_any_item(judged_by):
    server = judged_by(lambda turn: 401)
    with pytest.raises(SlmflowError, match="evaluate.judge=openai:/m: "):
        make_judge("openai:/m")
    assert len(server.asked) == 1


def test_a_judge_that_says_something_else_than_yes_or_no_is_refused(judged_by):
    judged_by(lambda turn: "perhaps")
    with pytest.raises(SlmflowError, match="no verdict: perhaps"):
        make_judge("openai:/m")


def test_a_judge_that_fails_on_the_way_is_an_error_and_the_answers_are_kept(
    logged, items, tmp_path, judged_by
):
    model_id, candidate = logged
    judged_by(lambda turn: 401 if turn == 5 else True)
    judge = make_judge("openai:/m")
    with mlflow.start_run(), pytest.raises(SlmflowError, match="judge judged 8 of 9 answers"):
        trace_answers(candidate, items, tmp_path / "journal", model_id, judge)
    assert candidate.asked == 9
    measure_tasks(candidate, items, tmp_path / "journal")
    assert candidate.asked == 9
