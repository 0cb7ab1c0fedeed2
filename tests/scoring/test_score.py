"""A table is answered row for row by a registered model, through the command as users type it."""

import contextlib
import os
import signal
import sys
import time

import mlflow
import psutil
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from slmflow.errors import SlmflowError
from slmflow.scoring.embedded import Pool
from slmflow.scoring.embedded import score as embedded
from slmflow.scoring.recipe import Recipe
from slmflow.scoring.table import Table
from slmflow.scoring.work import Work
from tests.conftest import run_warm
from tests.scoring.conftest import SPARK, broken_rows, read, score, short_rows, start


def test_every_row_is_accounted_for_though_one_in_twenty_is_broken(registered, tmp_path):
    table, output = broken_rows(tmp_path / "in.jsonl", 300), tmp_path / "out.jsonl"
    status, said = score(registered, table, output, "score.rows=64")
    assert status == 0, said
    assert "300 rows to " in said
    assert "15 of them errors" in said
    rows = read(output)
    assert len(rows) == 300
    errors = {at: row["error"] for at, row in enumerate(rows) if row["error"]}
    assert list(errors) == list(range(10, 300, 20))
    told = " ".join(errors.values())
    for why in (
        "is no JSON",
        "prompt is null",
        "prompt is list, not text",
        "is not UTF-8",
        "more than the model's",
    ):
        assert why in told
    for at, row in enumerate(rows):
        if not row["error"]:
            assert row["id"] == at
            assert row["finish_reason"] in ("stop", "length")
            assert 0 < row["completion_tokens"] <= 6
    mlflow.set_tracking_uri(registered)
    (run,) = MlflowClient().search_runs(["0"], f"params.scored_output = '{output}'", max_results=1)
    assert run.data.metrics["rows"] == 300
    assert run.data.metrics["errors"] == 15
    assert {one.tags[0].value for one in run.inputs.dataset_inputs} == {"input", "output"}
    mlflow.set_tracking_uri(None)
    assert not (tmp_path / "out.jsonl.work").exists()


def test_the_command_as_users_type_it_follows_an_alias(registered, tmp_path):
    """`mlflow run` logs its parameters by itself, and none can be logged twice."""
    table, output = short_rows(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    words = {
        "model_uri": "models:/tiny-onnx@champion", "input": table, "output": output,
        "overrides": "score.max_tokens=2",
    }  # fmt: skip
    given = [word for name, value in words.items() for word in ("-P", f"{name}={value}")]
    done = run_warm(["-e", "score", *given], tmp_path, MLFLOW_TRACKING_URI=registered)
    assert done.returncode == 0, done.stderr
    assert "2 rows to " in done.stdout
    assert len(read(output)) == 2
    assert not (tmp_path / "out.jsonl.work").exists()


def test_a_row_is_answered_as_the_model_answers_it_alone(registered, tmp_path):
    table, output = short_rows(tmp_path / "in.jsonl", 12), tmp_path / "out.parquet"
    status, said = score(registered, table, output, "score.rows=5")
    assert status == 0, said
    rows = pq.read_table(output).to_pylist()
    mlflow.set_tracking_uri(registered)
    model = mlflow.pyfunc.load_model("models:/tiny-onnx@champion", model_config={"tracing": False})
    mlflow.set_tracking_uri(None)
    for row in rows:
        alone = model.predict({"prompt": row["prompt"], "max_tokens": 6, "deterministic": True})
        assert row["text"] == alone[0]


@pytest.mark.slow
def test_a_scoring_that_was_killed_leaves_no_process_goes_on_and_ends_with_the_same_rows(
    registered, tmp_path
):
    table = short_rows(tmp_path / "in.jsonl", 400)
    status, said = score(registered, table, tmp_path / "whole.jsonl", "score.rows=20")
    assert status == 0, said
    output, words = tmp_path / "killed.jsonl", "score.rows=20"
    process = start(registered, table, output, words, python=sys.executable)
    answers = tmp_path / "killed.jsonl.work" / "answers"
    while len(list(answers.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    models = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    gone, living = psutil.wait_procs(models, timeout=60)
    assert gone
    assert not living, "a model process outlives its command"
    process.communicate()
    assert not output.exists()
    done = {path: path.stat().st_mtime_ns for path in answers.glob("*.parquet")}
    status, said = score(registered, table, output, f"{words} score.max_tokens=5")
    assert status == 1
    assert "holds a scoring with another request" in said
    status, said = score(registered, table, output, words)
    assert status == 0, said
    assert f"goes on: {20 - len(done)} of 20 partitions are left" in said
    assert output.read_text() == (tmp_path / "whole.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_does_not_wait_for_a_long_partition(registered, tmp_path, number):
    table = short_rows(tmp_path / "in.jsonl", 20_000)
    words = "score.rows=5000 score.max_tokens=100"
    process = start(
        registered, table, tmp_path / "out.jsonl", words, preexec_fn=os.setsid, python=sys.executable
    )
    while len(psutil.Process(process.pid).children(recursive=True)) < 2:  # a resource tracker, and a model
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(8)  # until it computes
    models = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 130, said
    assert "the same command goes on where it stopped" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(models, timeout=30)[1]


@pytest.mark.parametrize(
    ("words", "model", "said"),
    [
        ("score.prompt=question", None, "has no column question; it has id, prompt"),
        ("score.engine=elsewhere", None, "score.engine"),
        ("", "models:/none-onnx@champion", "model_uri=models:/none-onnx@champion: the registry says"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(registered, tmp_path, words, model, said):
    table = short_rows(tmp_path / "in.jsonl", 2)
    more = {"model": model} if model else {}
    status, output = score(registered, table, tmp_path / "out.jsonl", words, **more)
    assert status == 1
    assert said in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("out*"))


def test_a_process_that_dies_costs_its_partition_a_second_time_and_nothing_else(
    registered, tmp_path, warm_children
):
    mlflow.set_tracking_uri(registered)
    work = begun(tmp_path, 60)
    gone = False
    for _ in embedded(work, "models:/tiny-onnx/1", 1):
        if not gone:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                    if "spawn_main" in " ".join(child.cmdline()):
                        child.kill()
                        gone = True
    mlflow.set_tracking_uri(None)
    assert gone
    reports = list(work.reports())
    assert len(reports) == 60
    assert not [report for report in reports if report["error"]]


@pytest.mark.slow
@pytest.mark.usefixtures("java")
@pytest.mark.parametrize("words", ["", SPARK])
def test_the_row_at_which_a_process_dies_is_an_error_in_its_row(registered, deadly, tmp_path, words):
    table, output = short_rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    lines = table.read_text().splitlines()
    for at in (3, 25):
        lines[at] = '{"id": -1, "prompt": "planted death"}'
    table.write_text("\n".join(lines))
    status, said = score(registered, table, output, f"score.rows=10 {words}", model=deadly)
    assert status == 0, said
    rows = read(output)
    assert [at for at, row in enumerate(rows) if row["error"]] == [3, 25]
    assert rows[3]["error"] == "the model's process died at this row"
    assert all(row["text"] for at, row in enumerate(rows) if at not in (3, 25))


def test_a_model_that_cannot_be_loaded_ends_the_job_and_not_its_rows(registered, tmp_path):
    folder = tmp_path / "model"
    mlflow.set_tracking_uri(registered)
    mlflow.artifacts.download_artifacts("models:/tiny-onnx/1", dst_path=str(folder))
    mlflow.set_tracking_uri(None)
    next(folder.rglob("genai_config.json")).write_text("{")
    status, said = score(
        registered, short_rows(tmp_path / "in.jsonl", 3), tmp_path / "out.csv", model=str(folder)
    )
    assert status == 1
    assert "cannot be loaded" in said.splitlines()[-1]
    assert not (tmp_path / "out.csv").exists()


def begun(tmp_path, count):
    work = Work(tmp_path / "out.jsonl")
    work.folder.mkdir()
    table = Table(short_rows(tmp_path / "in.jsonl", count))
    work.begin(
        table.rows(), Recipe("prompt", fields={"max_tokens": 6}), "", 20, 1, {"digest": table.digest()}
    )
    return work


def test_a_second_process_that_cannot_load_the_model_ends_the_job_and_not_its_rows(
    registered, tmp_path, monkeypatch, warm_children
):
    folder = tmp_path / "model"
    mlflow.set_tracking_uri(registered)
    mlflow.artifacts.download_artifacts("models:/tiny-onnx/1", dst_path=str(folder))
    began = Pool._start

    def start_and_lose(self):
        made = began(self)
        folder.rename(tmp_path / "gone")
        return made

    monkeypatch.setattr(Pool, "_start", start_and_lose)
    with pytest.raises(SlmflowError, match="cannot be loaded"):
        list(embedded(begun(tmp_path, 200), str(folder), 2))
    mlflow.set_tracking_uri(None)
