"""The output: every row of the input with its columns and the report on it, whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.scoring.table import CHUNK, KINDS, Table, chunks

if TYPE_CHECKING:
    import pyarrow as pa

REPORT = ("text", "finish_reason", "prompt_tokens", "completion_tokens", "error")
"""Columns of an answer."""
COUNTS = ("prompt_tokens", "completion_tokens")
Report = dict[str, Any]


def output_kind(path: Path) -> str:
    """Raises SlmflowError unless the name says a kind of file that can be written."""
    if path.suffix.lower() not in KINDS:
        raise SlmflowError(f"output={path}: give a file in {', '.join(KINDS)}")
    return path.suffix.lower()


def write(
    path: Path,
    table: Table,
    reports: Iterable[Report],
    columns: list[str],
    prefix: str,
    whole: Callable[[Path], None],
) -> None:
    """Write the table with its reports to a file of the kind that its name says.

    `columns` are those of the input. `whole` is shown the finished file before it gets its name. A Parquet
    output of a Parquet input has the input's columns as they are, of another input as text.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    kind = output_kind(path)
    try:
        if kind == ".parquet" and table.kind == ".parquet":
            _append(scratch, table, reports, prefix)
        else:
            names = [*columns, *(f"{prefix}{name}" for name in REPORT)]
            {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}[kind](
                scratch, _joined(table, reports, prefix), names, prefix
            )
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        whole(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _joined(table: Table, reports: Iterable[Report], prefix: str) -> Iterator[dict[str, Any]]:
    for row, report in zip(table.rows(), reports, strict=True):
        yield {**row.values, **{f"{prefix}{name}": report[name] for name in REPORT}}


def _append(path: Path, table: Table, reports: Iterable[Report], prefix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = _report_schema(prefix)
    schema = pa.schema([*table.schema(), *own])
    waiting = iter(reports)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in table.batches():
            found = list(islice(waiting, batch.num_rows))
            columns = [
                pa.array([_valid(report[name]) for report in found], field.type)
                for name, field in zip(REPORT, own, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema))


def _report_schema(prefix: str) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(f"{prefix}{n}", pa.int64() if n in COUNTS else pa.string()) for n in REPORT])


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], prefix: str) -> None:
    """A JSON object a line; what JSON has no word for is null or text."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            try:
                line = json.dumps(row, ensure_ascii=False, default=_text, allow_nan=False)
            except ValueError:
                line = json.dumps(_finite(row), ensure_ascii=False, default=_text)
            file.write(line + "\n")


def write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], prefix: str) -> None:
    """A header and a line a row; lists and objects as JSON."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_text(row.get(name)) for name in columns] for row in rows)


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: list[str], prefix: str) -> None:
    """Every column as text but the report's own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = _report_schema(prefix)
    fields = [own.field(name) if name in own.names else pa.field(name, pa.string()) for name in columns]
    schema = pa.schema(fields)

    counts = {f"{prefix}{name}" for name in COUNTS}

    def typed(row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value if value is None or name in counts else _valid(_text(value))
            for name, value in row.items()
        }

    with pq.ParquetWriter(path, schema) as writer:
        for chunk in chunks(map(typed, rows), CHUNK):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _valid(value: Any) -> Any:
    """Text that JSON may hold and UTF-8 may not (a lone surrogate), escaped."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list, bool)):
        return json.dumps(_finite(value), ensure_ascii=False, default=_text)
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    """A JSON value whose NaN and infinities are null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
