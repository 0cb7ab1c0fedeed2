"""A scoring that is under way: its requests and answers by partition, beside the output until that is whole.

<output>.work/work.json                    what is scored: nothing else ever continues it
<output>.work/requests/<n>.parquet         index, request or error; written once
<output>.work/answers/<n>.parquet          index and report of every request, whole or not there
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import read_json, write_json
from slmflow.scoring.recipe import Recipe, RowError
from slmflow.scoring.table import Table, chunks

if TYPE_CHECKING:
    pass

REPORT = ("text", "finish_reason", "prompt_tokens", "completion_tokens", "error")
"""Columns of an answer."""
COUNTS = ("prompt_tokens", "completion_tokens")


class Work:
    """The folder of one scoring."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.work")

    def begin(self, table: Table, recipe: Recipe, rows: int, key: dict[str, Any]) -> bool:
        """Make the requests, unless they are there; returns whether it goes on with an earlier start.

        Raises SlmflowError where the folder holds another scoring.
        """
        marker = self.folder / "work.json"
        if marker.exists():
            held = read_json(marker)
            differing = sorted(name for name in held["key"] | key if held["key"].get(name) != key.get(name))
            if differing:
                raise SlmflowError(
                    f"{self.folder}: holds a scoring with another {', '.join(differing)}: give another "
                    "output, or delete that folder"
                )
            return True
        shutil.rmtree(self.folder, ignore_errors=True)  # of a start that was killed
        (self.folder / "answers").mkdir(parents=True)
        (self.folder / "requests").mkdir()
        total, parts = 0, 0
        for part, chunk in enumerate(chunks(table.rows(), rows)):
            made = [
                {"part": part, "index": total + n, **_request(recipe, row)} for n, row in enumerate(chunk)
            ]
            write_parquet(self.requests(part), made)
            total, parts = total + len(chunk), part + 1
        write_json(marker, {"key": key, "rows": total, "parts": parts})
        return False

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return int(read_json(self.folder / "work.json")["rows"])

    def parts(self) -> range:
        """Numbers of the partitions."""
        return range(int(read_json(self.folder / "work.json")["parts"]))

    def pending(self) -> list[int]:
        """Partitions that are not answered."""
        return [part for part in self.parts() if not self.answers(part).exists()]

    def requests(self, part: int) -> Path:
        """Of a partition."""
        return self.folder / "requests" / f"{part:06}.parquet"

    def answers(self, part: int) -> Path:
        """Of a partition."""
        return self.folder / "answers" / f"{part:06}.parquet"

    def read_requests(self, part: int) -> list[dict[str, Any]]:
        """Rows with index, request and error."""
        return read_parquet(self.requests(part))

    def keep(self, part: int, answered: list[dict[str, Any]]) -> None:
        """Write the answers of a partition, whole or not at all: index and report of every request."""
        write_parquet(self.answers(part), sorted(answered, key=lambda row: int(row["index"])))

    def reports(self) -> Iterator[dict[str, Any]]:
        """A report for every row of the input, in its order. Raises SlmflowError where one is missing."""
        for part in self.parts():
            answered = {row["index"]: row for row in read_parquet(self.answers(part))}
            for asked in self.read_requests(part):
                if asked["request"] is None:
                    yield report_of_error(asked["error"])
                elif (found := answered.get(asked["index"])) is None:
                    raise SlmflowError(
                        f"{self.answers(part)}: row {asked['index']} is missing; delete it, run again"
                    )
                else:
                    yield _nulled({name: found[name] for name in REPORT})

    def close(self) -> None:
        """Forget it: the output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


def report_of_error(error: str) -> dict[str, Any]:
    """The report on a row that was not answered."""
    return {**dict.fromkeys(REPORT), "error": error}


def _nulled(report: dict[str, Any]) -> dict[str, Any]:
    """A report of the model, whose columns have no nulls, as it is written."""
    return report_of_error(report["error"]) if report["error"] else {**report, "error": None}


def _request(recipe: Recipe, row: Any) -> dict[str, Any]:
    if row.error:
        return {"request": None, "error": row.error}
    try:
        return {"request": recipe.request_of(row.values), "error": None}
    except RowError as error:
        return {"request": None, "error": str(error)}


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """All rows of a file."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return rows


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, whole or not at all, also where two processes write the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"part": pa.int64(), "index": pa.int64(), **dict.fromkeys(COUNTS, pa.int64())}
    names = list(rows[0]) if rows else ["index", *REPORT]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), scratch)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)
