"""Every row of a file is read, broken ones as such, and what is written is whole."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.scoring.table import Table, write

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip())))
def test_json_lines_of_any_bytes_are_as_many_rows(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("t") / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    rows = list(Table(path).rows())
    assert len(rows) == len(lines)
    assert all(row.error or isinstance(row.values, dict) for row in rows)


@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), min_size=1))
def test_a_table_survives_csv_and_json_lines(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("t")
    for name in ("t.csv", "t.jsonl"):
        write(folder / name, rows, ["a", "b"], None)
        found = [
            {key: value or "" for key, value in row.values.items()} for row in Table(folder / name).rows()
        ]
        assert found == rows


def test_parquet_keeps_its_types_and_a_folder_of_it_is_one_table(tmp_path):
    schema = pa.schema([("n", pa.int32()), ("chat", pa.list_(pa.struct([("role", pa.string())])))])
    rows = [{"n": n, "chat": [{"role": "user"}]} for n in range(3)]
    for part in ("a", "b"):
        write(tmp_path / "t" / f"{part}.parquet", rows, ["n", "chat"], schema)
    table = Table(tmp_path / "t")
    assert table.schema() == schema
    assert [row.values for row in table.rows()] == rows * 2
    assert table.columns() == ["n", "chat"]


def test_rows_of_csv_that_are_broken_are_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n1,2\n1\n1,2,3\n"x\ny",2\ncaf\xe9,2\n,2\n')
    rows = list(Table(path).rows())
    assert [row.error for row in rows] == [
        "", "the row has 1 fields, the header 2", "the row has 3 fields, the header 2", "", "the row is not UTF-8", "",
    ]  # fmt: skip
    assert rows[3].values == {"a": "x\ny", "b": "2"}
    assert rows[5].values["a"] is None


@pytest.mark.parametrize("name", ["gone.csv", "table.xls", "empty"])
def test_what_is_no_table_is_refused(tmp_path, name):
    (tmp_path / "table.xls").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlmflowError, match="input="):
        Table(tmp_path / name)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_text("no")
    with pytest.raises(SlmflowError, match="t.parquet"):
        Table(tmp_path / "t.parquet").columns()


def test_nothing_is_left_of_an_output_that_was_not_finished(tmp_path):
    def rows():
        yield {"a": "1"}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write(tmp_path / "out.jsonl", rows(), ["a"], None)
    assert not list(tmp_path.iterdir())


def test_parquet_that_was_made_of_text_has_every_column_as_text(tmp_path):
    schema = pa.schema([("a", pa.string()), ("n", pa.int64())])
    write(tmp_path / "t.parquet", [{"a": {"x": 3}, "n": 1}, {"a": 2}, {"n": None}], ["a", "n"], schema)
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [
        {"a": '{"x": 3}', "n": 1}, {"a": "2", "n": None}, {"a": None, "n": None},
    ]  # fmt: skip
