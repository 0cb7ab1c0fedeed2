"""Every row of a file is read, broken ones as such, and what is written is whole."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.scoring.output import REPORT, write, write_csv, write_jsonl, write_parquet
from slmflow.scoring.table import Table

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(
    st.lists(
        st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip(b" \t\r\v\f\xef\xbb\xbf"))
    )
)
def test_json_lines_of_any_bytes_are_as_many_rows(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("t") / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    rows = list(Table(path).rows())
    assert len(rows) == len(lines)
    assert all(row.error or isinstance(row.values, dict) for row in rows)


@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), min_size=1))
def test_a_table_survives_csv_and_json_lines(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("t")
    for name, writer in (("t.csv", write_csv), ("t.jsonl", write_jsonl)):
        writer(folder / name, rows, ["a", "b"], "")
        found = [
            {key: value or "" for key, value in row.values.items()} for row in Table(folder / name).rows()
        ]
        assert found == rows


def report(text, error=None):
    return {**dict.fromkeys(REPORT), "text": text, "error": error}


def stored(path, arrays, schema):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)
    return path


def test_parquet_keeps_its_types_and_a_folder_of_it_is_one_table(tmp_path):
    schema = pa.schema([("n", pa.int32()), ("chat", pa.list_(pa.struct([("role", pa.string())])))])
    rows = [{"n": n, "chat": [{"role": "user"}]} for n in range(3)]
    for part in ("a", "b"):
        (tmp_path / "t").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "t" / f"{part}.parquet")
    table = Table(tmp_path / "t")
    assert table.schema() == schema
    assert [row.values for row in table.rows()] == rows * 2
    assert table.header() == ["n", "chat"]


def test_what_python_cannot_hold_is_an_error_in_its_row_and_goes_through_to_parquet_as_it_was(tmp_path):
    times = pa.array([1_000_000_001, 2], pa.time64("ns"))
    dates = pa.array([8_000_000, 0], pa.date32())  # the first lies after the year 9999
    broken = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"\xff\xfeok")
    )
    names = pa.array(["x", "y"]).dictionary_encode()
    given = pa.table({"time": times, "date": dates, "prompt": broken, "name": names})
    pq.write_table(given, tmp_path / "in.parquet")
    table = Table(tmp_path / "in.parquet")
    first, second = table.rows()
    assert "date cannot be read" in first.error
    assert "prompt cannot be read" in first.error
    assert first.values["name"] == "x"
    assert second.error == ""
    write(tmp_path / "out.parquet", table, [report(None, "e"), report("answer")], [], "", lambda _: None)
    found = pq.read_table(tmp_path / "out.parquet")
    for name in given.column_names:
        assert (
            found.column(name).chunk(0).equals(pq.read_table(tmp_path / "in.parquet").column(name).chunk(0))
        )
    assert found.column("text").to_pylist() == [None, "answer"]


def test_files_of_a_folder_may_lack_a_column_and_may_not_differ_in_its_type(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"prompt": ["b"], "n": [1]}), tmp_path / "b.parquet")
    assert [row.values for row in Table(tmp_path).rows()] == [
        {"prompt": "a", "n": None},
        {"prompt": "b", "n": 1},
    ]
    pq.write_table(pa.table({"prompt": [3]}), tmp_path / "c.parquet")
    with pytest.raises(SlmflowError, match=r"c\.parquet: .*prompt"):
        Table(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, name):
    if name == "t.csv":
        (tmp_path / name).write_text("a,b,a\n1,2,3\n")
    else:
        stored(
            tmp_path / name, [pa.array([1]), pa.array([2])], pa.schema([("a", pa.int64()), ("a", pa.int64())])
        )
    with pytest.raises(SlmflowError, match="the column a twice"):
        Table(tmp_path / name)


def test_a_mark_of_byte_order_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert [(row.values, row.error) for row in Table(tmp_path / "t.jsonl").rows()] == [({"a": 1}, "")]


def test_what_the_kinds_of_output_have_no_word_for_is_text_or_null(tmp_path):
    row = {
        "d": datetime.date(2024, 1, 2),
        "n": float("nan"),
        "l": [float("inf"), {"x": True}],
        "b": b"\xff",
        "s": "\ud800",
    }
    write_csv(tmp_path / "t.csv", [row], list(row), "")
    assert (tmp_path / "t.csv").read_text().splitlines()[
        1
    ] == '2024-01-02,nan,"[null, {""x"": true}]",\\xff,\\ud800'
    write_jsonl(tmp_path / "t.jsonl", [row], list(row), "")
    line = (tmp_path / "t.jsonl").read_text()
    assert json.loads(line) == {
        "d": "2024-01-02",
        "n": None,
        "l": [None, {"x": True}],
        "b": "\\xff",
        "s": "\ud800",
    }
    write_parquet(tmp_path / "t.parquet", [row], list(row), "")
    assert pq.read_table(tmp_path / "t.parquet").to_pylist()[0]["s"] == "\\ud800"


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
    with pytest.raises(SlmflowError, match=r"t\.parquet"):
        Table(tmp_path / "t.parquet")


def test_nothing_is_left_of_an_output_that_was_not_finished(tmp_path):
    def reports():
        yield report("1")
        raise RuntimeError("killed")

    (tmp_path / "in.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(RuntimeError):
        write(tmp_path / "out.jsonl", Table(tmp_path / "in.jsonl"), reports(), ["a"], "", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_parquet_that_was_made_of_text_has_every_column_as_text_but_the_counts(tmp_path):
    rows = [{"a": {"x": 3}, "p_prompt_tokens": 1}, {"a": 2}, {"p_prompt_tokens": None}]
    write_parquet(tmp_path / "t.parquet", rows, ["a", "p_prompt_tokens"], "p_")
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [
        {"a": '{"x": 3}', "p_prompt_tokens": 1}, {"a": "2", "p_prompt_tokens": None},
        {"a": None, "p_prompt_tokens": None},
    ]  # fmt: skip
