"""Apache Spark answers the same rows with the same results, whatever happens to its executors."""

import contextlib
import json
import sys
import threading
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scoring.conftest import SPARK, broken_rows, read, score, short_rows, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("java")]


def test_spark_gives_the_rows_of_the_embedded_engine_broken_ones_too(registered, tmp_path):
    table = broken_rows(tmp_path / "in.jsonl", 200)
    for name, words in (("here", ""), ("spark", SPARK)):
        status, said = score(registered, table, tmp_path / f"{name}.jsonl", f"score.rows=25 {words}")
        assert status == 0, said
        assert "200 rows to " in said
        assert "10 of them errors" in said
    assert (tmp_path / "here.jsonl").read_text() == (tmp_path / "spark.jsonl").read_text()


def executors(process):
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            if "CoarseGrainedExecutorBackend" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_ten_thousand_rows_over_two_executors_with_one_killed_on_the_way(registered, tmp_path):
    table = short_rows(tmp_path / "in.jsonl", 10_000)
    status, said = score(registered, table, tmp_path / "here.jsonl", "score.rows=500")
    assert status == 0, said
    words = f"score.rows=500 {SPARK}"
    process = start(registered, table, tmp_path / "spark.jsonl", words, python=sys.executable)
    said = []
    reader = threading.Thread(target=lambda: said.append(process.communicate()[0]))
    reader.start()
    answers = tmp_path / "spark.jsonl.work" / "answers"
    while not list(answers.glob("*.parquet")):
        assert process.poll() is None, said
        time.sleep(0.05)
    victims = executors(process)
    assert len(victims) == 2
    victims[0].kill()
    reader.join()
    assert process.returncode == 0, said
    rows = (tmp_path / "spark.jsonl").read_text()
    assert rows.count("\n") == 10_000
    assert rows == (tmp_path / "here.jsonl").read_text()


def test_a_table_of_sparks_own_is_read_by_its_name(registered, tmp_path):
    status, said = score(registered, "table:nowhere.none", tmp_path / "out.jsonl", SPARK)
    assert status == 1
    assert "input=table:nowhere.none: Spark says: " in said
    status, said = score(registered, "table:any", tmp_path / "out.jsonl", "score.engine=embedded")
    assert status == 1
    assert "is Spark's to read" in said
    assert not list(tmp_path.iterdir())


def test_a_table_that_spark_names_is_scored_as_its_file_is(registered, tmp_path):
    table = short_rows(tmp_path / "in.jsonl", 50)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    (tmp_path / "table").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table" / "rows.parquet")
    status, said = score(registered, tmp_path / "table", tmp_path / "here.jsonl")
    assert status == 0, said
    named = f"table:parquet.`{tmp_path}/table`"
    status, said = score(registered, named, tmp_path / "spark.jsonl", SPARK)
    assert status == 0, said
    assert read(tmp_path / "spark.jsonl") == read(tmp_path / "here.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("spark")) == [
        "spark.jsonl"
    ]
