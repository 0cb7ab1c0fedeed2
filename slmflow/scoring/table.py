"""Tables in files: read row by row, a broken row as such; written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line
from slmflow.files import canonical_digest, digests_under, remembered_sha256

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
        """Raises SlmflowError for what is not there or of no known kind."""
        if not path.exists():
            raise SlmflowError(f"input={path}: is not there")
        self.path = path
        self.files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        self.kind = ".parquet" if path.is_dir() else path.suffix.lower()
        if not self.files or self.kind not in KINDS:
            raise SlmflowError(
                f"input={path}: give a file in {', '.join(KINDS)}, or a folder of Parquet files"
            )

    def digest(self) -> str:
        """sha256 of the content, the same wherever it is."""
        if self.path.is_dir():
            return canonical_digest(digests_under(self.path))
        return remembered_sha256(self.path)

    def columns(self) -> list[str]:
        """Names of its columns; of JSON lines those of the first row that can be read.

        Raises SlmflowError where it has none.
        """
        if self.kind == ".parquet":
            names = list(self.schema().names)
        elif self.kind == ".csv":
            names = next(iter(self._csv_lines()), [])
        else:
            names = next((list(row.values) for row in self.rows() if not row.error), [])
        if not names:
            raise SlmflowError(f"input={self.path}: has no row that can be read")
        return names

    def schema(self) -> pa.Schema:
        """Of Parquet. Raises SlmflowError for a file that is none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(self.files[0])
        except (pa.ArrowInvalid, OSError) as error:
            raise SlmflowError(f"input={self.files[0]}: {first_line(error)}") from None

    def rows(self) -> Iterator[Row]:
        """Every row in order."""
        if self.kind == ".jsonl":
            yield from self._jsonl()
        elif self.kind == ".csv":
            yield from self._csv()
        else:
            import pyarrow.parquet as pq

            for file in self.files:
                for batch in pq.ParquetFile(file).iter_batches(CHUNK):
                    yield from (Row(values) for values in batch.to_pylist())

    def _jsonl(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.decode())
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
        for fields in lines:
            if not fields:
                continue
            row = dict(zip(names, fields, strict=False))
            if len(fields) != len(names):
                yield Row(row, f"the row has {len(fields)} fields, the header {len(names)}")
            elif any(0xDC80 <= ord(char) <= 0xDCFF for field in fields for char in field):
                yield Row(
                    {n: v.encode(errors="replace").decode() for n, v in row.items()}, "the row is not UTF-8"
                )
            else:
                yield Row({name: value if value else None for name, value in row.items()})


def output_kind(path: Path) -> str:
    """Raises SlmflowError unless the name says a kind of file that can be written."""
    if path.suffix.lower() not in KINDS:
        raise SlmflowError(f"output={path}: give a file in {', '.join(KINDS)}")
    return path.suffix.lower()


def write(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], schema: pa.Schema | None) -> None:
    """Write rows to a file of the kind that its name says, whole or not at all.

    `schema` types Parquet; without one every column but numbers is text, other values as JSON.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}[output_kind(path)](
            scratch, rows, columns, schema
        )
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], schema: Any) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], schema: Any) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_text(row.get(name)) for name in columns] for row in rows)


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [field.name for field in schema if pa.types.is_string(field.type)]

    def as_text(row: dict[str, Any]) -> dict[str, Any]:
        held = {name: row[name] for name in texts if row.get(name) is not None}
        return {**row, **{name: _text(value) for name, value in held.items()}}

    with pq.ParquetWriter(path, schema) as writer:
        for chunk in chunks(map(as_text, rows), CHUNK):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


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
