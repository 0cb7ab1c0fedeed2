"""Tables in files, read row by row: a broken row as such, an input that is no table refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line
from slmflow.files import canonical_digest, remembered_sha256

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = (".parquet", ".jsonl", ".csv")
CHUNK = 1024
"""Rows that are held at a time."""


@dataclass(frozen=True)
class Row:
    """One row of the input."""

    values: dict[str, Any]
    error: str = ""
    """Why it cannot be read; its values are then what could be."""


class Table:
    """A file, or a folder of Parquet files, as rows in one order."""

    def __init__(self, path: Path) -> None:
        """Raises SlmflowError for what is not there, of no known kind, or has a column twice."""
        if not path.exists():
            raise SlmflowError(f"input={path}: is not there")
        self.path = path
        self.files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        self.kind = ".parquet" if path.is_dir() else path.suffix.lower()
        if not self.files or self.kind not in KINDS:
            raise SlmflowError(
                f"input={path}: give a file in {', '.join(KINDS)}, or a folder of Parquet files"
            )
        self.header()

    def digest(self) -> str:
        """sha256 of the content, the same wherever it is."""
        if self.path.is_dir():
            return canonical_digest({file.name: remembered_sha256(file) for file in self.files})
        return remembered_sha256(self.path)

    def header(self) -> list[str] | None:
        """Names of its columns; None for JSON lines, of which each has its own."""
        if self.kind == ".parquet":
            return list(self.schema().names)
        if self.kind == ".csv":
            return _once(next(iter(self._csv_lines()), []), self.path)
        return None

    def schema(self) -> pa.Schema:
        """Of Parquet, all files together. Raises SlmflowError for one that is none or of other types."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = pa.schema([])
        for file in self.files:
            try:
                own = pq.read_schema(file).remove_metadata()
                _once(own.names, file)
                found = pa.unify_schemas([found, own])
            except (pa.ArrowException, OSError) as error:
                raise SlmflowError(f"input={file}: {first_line(error)}") from None
        return found

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Of Parquet, as they are stored, all of one schema. Raises SlmflowError for a damaged file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self.schema()
        for file in self.files:
            try:
                for batch in pq.ParquetFile(file).iter_batches(CHUNK):
                    columns = [
                        batch.column(field.name) if field.name in batch.schema.names
                        else pa.nulls(batch.num_rows, field.type)
                        for field in schema
                    ]  # fmt: skip
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)
            except (pa.ArrowException, OSError) as error:
                raise SlmflowError(f"input={file}: {first_line(error)}") from None

    def rows(self) -> Iterator[Row]:
        """Every row in order."""
        if self.kind == ".jsonl":
            yield from self._jsonl()
        elif self.kind == ".csv":
            yield from self._csv()
        else:
            for batch in self.batches():
                yield from _rows_of(batch)

    def _jsonl(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if not text.strip():
                    continue
                try:
                    value = json.loads(text.decode())
                except UnicodeDecodeError:
                    yield Row({}, "the line is not UTF-8")
                except (ValueError, RecursionError) as error:
                    yield Row({}, f"the line is no JSON: {first_line(error)}")
                else:
                    is_row = isinstance(value, dict)
                    yield Row(value) if is_row else Row({}, "the line is no JSON object")

    def _csv_lines(self) -> Iterator[list[str]]:
        csv.field_size_limit(2**31 - 1)
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                yield from csv.reader(file)
            except csv.Error as error:
                raise SlmflowError(f"input={self.path}: {error}") from None

    def _csv(self) -> Iterator[Row]:
        lines = self._csv_lines()
        names = next(lines, [])
        if any(_is_broken(name) for name in names):
            raise SlmflowError(f"input={self.path}: its header is not UTF-8")
        for fields in lines:
            if not fields:
                continue
            row = dict(zip(names, fields, strict=False))
            if len(fields) != len(names):
                yield Row(row, f"the row has {len(fields)} fields, the header {len(names)}")
            elif any(map(_is_broken, fields)):
                yield Row(
                    {n: v.encode(errors="replace").decode() for n, v in row.items()}, "the row is not UTF-8"
                )
            else:
                yield Row({name: value if value else None for name, value in row.items()})


def _once(names: list[str], path: Path) -> list[str]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SlmflowError(f"input={path}: has the column {twice[0]} twice: rename one")
    return names


def _is_broken(text: str) -> bool:
    return any(0xDC80 <= ord(char) <= 0xDCFF for char in text)


def _rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    try:
        found = batch.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError):  # text that is no UTF-8, a date after the year 9999
        found = None
    if found is not None:
        yield from map(Row, found)
        return
    for at in range(batch.num_rows):
        values, errors = {}, []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                values[name] = column[at].as_py(maps_as_pydicts="lossy")
            except (ValueError, OverflowError) as error:
                values[name] = None
                errors.append(f"{name} cannot be read: {first_line(error)}")
        yield Row(values, "; ".join(errors))


def chunks(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` rows, the last one shorter."""
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
