"""A scoring keeps rows and answers together, and goes on after anything, here with an engine that costs nothing."""

import json
import os

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.commands import score
from slmflow.errors import SlmflowError
from slmflow.scoring import record
from slmflow.scoring.table import Row, Table
from slmflow.scoring.work import PARTS, SMALLEST, Work, sized
from tests.scoring.conftest import read, short_rows


def answers(work, *_):
    """Each row is answered with its own request."""
    for part in work.pending():
        asked = [row for row in work.read_requests(part) if row["request"] is not None]
        counts = {"prompt_tokens": 1, "completion_tokens": 1}
        said = [{"text": json.loads(row["request"])["prompt"], "finish_reason": "stop"} for row in asked]
        work.keep(
            part,
            [{"index": a["index"], **b, **counts, "error": ""} for a, b in zip(asked, said, strict=True)],
        )
        yield len(work.read_requests(part))


@pytest.fixture
def run(registered, monkeypatch):
    mlflow.set_tracking_uri(registered)
    monkeypatch.setattr(score, "_engine", answers)

    def start(table, output, words=""):
        return score.run(
            [
                "model_uri=models:/tiny-onnx@champion",
                f"input={table}",
                f"output={output}",
                f"overrides={words}",
            ]
        )

    yield start
    mlflow.set_tracking_uri(None)


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_input_that_changes_while_it_is_scored_gives_no_output(run, tmp_path, monkeypatch):
    table, output = short_rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    whole = table.read_text()

    def changing(work, *_):
        yield from answers(work)
        table.write_text("".join(reversed(whole.splitlines(keepends=True))))

    monkeypatch.setattr(score, "_engine", changing)
    with pytest.raises(SlmflowError, match="was changed while it was scored"):
        run(table, output)
    assert not output.exists()
    table.write_text(whole)
    assert run(table, output) == 0
    assert all(row["text"] == row["prompt"] for row in read(output))


def test_folders_of_the_users_own_are_left_alone(run, tmp_path):
    table, output = short_rows(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    for name in ("out.jsonl.work", "out.jsonl.input"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("mine")
    with pytest.raises(SlmflowError, match="is no scoring"):
        run(table, output)
    (tmp_path / "out.jsonl.work").rename(tmp_path / "kept")
    assert run(table, output) == 0
    assert (tmp_path / "kept" / "precious").exists()
    assert (tmp_path / "out.jsonl.input" / "precious").exists()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_column_that_only_a_later_row_has_is_kept(run, tmp_path, kind):
    table = lines(tmp_path / "in.jsonl", {}, {"id": 1}, {"prompt": "a", "late": "x"})
    output = tmp_path / f"out.{kind}"
    assert run(table, output) == 0
    if kind == "parquet":
        import pyarrow.parquet as pq

        found = pq.read_table(output).to_pylist()
    else:
        found = [row.values for row in Table(output).rows()]
    assert [row.get("late") for row in found] == [None, None, "x"]
    assert [row["error"] for row in found] == ["it has no prompt", "it has no prompt", None]
    assert found[2]["text"] == "a"


def test_a_column_of_a_later_row_that_would_be_overwritten_is_refused(run, tmp_path):
    table = lines(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": "b", "text": "MINE"})
    with pytest.raises(SlmflowError, match="a column text of its own"):
        run(table, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_output_that_is_there_is_refused_and_columns_of_the_same_name_go_beside_a_prefix(run, tmp_path):
    table = lines(tmp_path / "in.jsonl", {"prompt": "a", "text": "b"})
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(SlmflowError, match="is there already"):
        run(table, tmp_path / "there.jsonl")
    assert run(table, tmp_path / "out.jsonl", "score.prefix=answer_") == 0
    (row,) = read(tmp_path / "out.jsonl")
    assert (row["text"], row["answer_text"]) == ("b", "a")


def test_a_table_without_rows_gives_an_output_without_rows(run, tmp_path):
    (tmp_path / "in.jsonl").write_text("")
    assert run(tmp_path / "in.jsonl", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "text,finish_reason,prompt_tokens,completion_tokens,error"
    ]


def test_a_start_that_ended_between_output_and_record_is_recorded_by_the_next(run, tmp_path, monkeypatch):
    table, output = short_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"

    def away(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record, "log", away)
        with pytest.raises(KeyboardInterrupt):
            run(table, output)
    written = output.stat().st_mtime_ns
    assert run(table, output) == 0
    assert output.stat().st_mtime_ns == written
    found = MlflowClient().search_runs(["0"], f"params.scored_output = '{output}'")
    assert [one.data.metrics["rows"] for one in found if one.info.status == "FINISHED"] == [5]
    assert not (tmp_path / "out.jsonl.work").exists()
    output.write_text("somebody's")
    with pytest.raises(SlmflowError, match="is there already"):
        run(table, output)


def test_a_second_command_at_the_same_output_is_told_who_is_at_it(run, tmp_path):
    table, output = short_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    with Work(output).claimed(), pytest.raises(SlmflowError, match=f"by process {os.getpid()}"):
        run(table, output)
    assert run(table, output) == 0


def test_an_alias_that_moves_meanwhile_does_not_cost_what_was_scored(run, tmp_path, monkeypatch, capsys):
    table, output = short_rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"

    def stopping(work, *_):
        yield next(answers(work))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score, "_engine", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(table, output)
    client = MlflowClient()
    first = client.get_model_version("tiny-onnx", "1")
    client.create_model_version("tiny-onnx", first.source, model_id=first.model_id)
    client.set_registered_model_alias("tiny-onnx", "champion", "2")
    try:
        assert run(table, output) == 0
    finally:
        client.set_registered_model_alias("tiny-onnx", "champion", "1")
    assert "goes on with models:/tiny-onnx/1, with which it began" in capsys.readouterr().out


def test_a_table_of_which_no_row_is_answered_ends_with_status_1_and_its_errors(run, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('no json\n{"prompt": null}\n')
    assert run(tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 1
    assert "no row was answered" in capsys.readouterr().err
    assert [row["error"].partition(":")[0] for row in read(tmp_path / "out.jsonl")] == [
        "the line is no JSON",
        "prompt is null",
    ]


def test_text_that_is_no_unicode_is_an_error_in_its_row_or_goes_through_escaped(run, tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "in.jsonl").write_text('{"prompt": "x\\ud800"}\n{"prompt": "y", "note": "\\ud800"}\n')
    assert run(tmp_path / "in.jsonl", tmp_path / "out.parquet") == 0
    first, second = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert first["error"] == "prompt is no valid Unicode"
    assert second["text"] == "y"
    assert second["note"] == "\\ud800"


def test_a_place_that_cannot_be_written_is_told_in_one_line(run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SlmflowError, match="Not a directory"):
        run(short_rows(tmp_path / "in.jsonl", 2), tmp_path / "file" / "out.jsonl")


def test_an_output_inside_the_input_is_refused(run, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SlmflowError, match="is in the input"):
        run(tmp_path, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("count", "size", "processes"), [(0, 256, 1), (5, 256, 2), (300, 256, 2), (2048, 256, 2), (3000, 256, 2)]
)
def test_a_short_table_is_divided_for_all_processes_and_a_long_one_by_its_size(count, size, processes):
    parts = [len(chunk) for chunk in sized((Row({"n": n}) for n in range(count)), size, processes)]
    assert sum(parts) == count
    assert max(parts, default=0) <= size
    if count >= SMALLEST * PARTS * processes:
        assert len(parts) >= PARTS * processes
