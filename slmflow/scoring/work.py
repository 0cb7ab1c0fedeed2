"""A scoring that is under way: its requests and answers by partition, beside the output until that is whole.

<output>.work/lock                         who scores it; also says that the folder is a scoring's
<output>.work/work.json                    what is scored: nothing else ever continues it
<output>.work/table/                       of an input that Spark named: its rows as they were read
<output>.work/requests/<n>.parquet         index, request or error; written once
<output>.work/answers/<n>.parquet          index and report of every request, whole or not there
<output>.work/written.json                 the digest of the finished output
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from slmflow.errors import SlmflowError
from slmflow.files import read_json, sha256_of, write_json
from slmflow.scoring.output import COUNTS, REPORT, Report
from slmflow.scoring.recipe import Recipe, RowError
from slmflow.scoring.table import CHUNK, Row, chunks

PARTS = 4
"""At least, for each process that answers, so that all of them have work and the bar moves."""
SMALLEST = 16
"""Rows of a partition, where the table has them: as many are decoded together."""


class Work:
    """The folder of one scoring."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.work")
        self._marker = self.folder / "work.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[Work]:
        """Hold the folder alone; what was not begun when it is given up is removed.

        Raises SlmflowError where another process holds it, or it is somebody's own.
        """
        lock = self.folder / "lock"
        if self.folder.exists() and not lock.exists() and any(self.folder.iterdir()):
            raise SlmflowError(f"{self.folder}: is there and is no scoring: give another output, or move it")
        descriptor = self._locked(lock)
        try:
            if not self._marker.exists():  # of a start that was killed
                self._clear(keep=lock)
            yield self
        finally:
            if not self._marker.exists():
                self.close()
            os.close(descriptor)

    def _locked(self, lock: Path) -> int:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # its last holder was just removing the folder
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise SlmflowError(
                    f"{self.folder}: is being scored by process {lock.read_text().strip() or 'of another'}: "
                    "wait for it, or give another output"
                ) from None
            except OSError:  # a mounted volume without locks
                return descriptor
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                    return descriptor
            os.close(descriptor)

    def _clear(self, keep: Path) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != keep:
                path.unlink()

    @property
    def key(self) -> dict[str, str]:
        """What is scored; empty where nothing was begun."""
        return dict(read_json(self._marker)["key"]) if self._marker.exists() else {}

    def begin(
        self, rows: Iterable[Row], recipe: Recipe, prefix: str, size: int, processes: int, key: dict[str, str]
    ) -> None:
        """Make the requests of a table, in partitions of at most `size` rows.

        Raises SlmflowError for a table without a column that the recipe asks for, or with one of the
        answer's names.
        """
        (self.folder / "answers").mkdir()
        (self.folder / "requests").mkdir()
        total, parts = 0, 0
        columns: dict[str, None] = {}
        for part, chunk in enumerate(sized(rows, size, processes)):
            made = [
                {"part": part, "index": total + n, **_request(recipe, row)} for n, row in enumerate(chunk)
            ]
            write_parquet(self.requests(part), made)
            columns |= dict.fromkeys(name for row in chunk for name in row.values)
            total, parts = total + len(chunk), part + 1
        if columns and (missing := [name for name in recipe.columns if name not in columns]):
            raise SlmflowError(
                f"the input has no column {missing[0]}; it has {', '.join(list(columns)[:12])}: name one by "
                "score.prompt, score.messages or score.template"
            )
        if taken := [f"{prefix}{name}" for name in REPORT if f"{prefix}{name}" in columns]:
            raise SlmflowError(f"the input has a column {taken[0]} of its own: add score.prefix=answer_")
        write_json(self._marker, {"key": key, "rows": total, "parts": parts, "columns": list(columns)})

    def check(self, key: dict[str, str]) -> None:
        """Raise SlmflowError where the folder holds another scoring than this."""
        held = self.key
        for name in sorted(held | key):
            if held.get(name) != key.get(name):
                values = f" ({held.get(name)})" if name == "model" else ""
                raise SlmflowError(
                    f"{self.folder}: holds a scoring with another {name}{values}: give that, another output, "
                    "or delete the folder"
                )

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return int(read_json(self._marker)["rows"])

    @property
    def columns(self) -> list[str]:
        """Of the input, all that a row had."""
        return [str(name) for name in read_json(self._marker)["columns"]]

    def parts(self) -> range:
        """Numbers of the partitions."""
        return range(int(read_json(self._marker)["parts"]))

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

    def reports(self) -> Iterator[Report]:
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

    def note_written(self, scratch: Path) -> None:
        """The output is whole, and about to get its name."""
        write_json(self.folder / "written.json", {"sha256": sha256_of(scratch)})

    def has_written(self, output: Path) -> bool:
        """Whether the output that is there is this scoring's."""
        note = self.folder / "written.json"
        return output.exists() and note.exists() and read_json(note)["sha256"] == sha256_of(output)

    def close(self) -> None:
        """Forget it: the output is whole, or nothing was begun."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sized(rows: Iterable[Row], size: int, processes: int) -> Iterator[list[Row]]:
    """Partitions of `size` rows; of a short table smaller ones, so that each process has several."""
    waiting = iter(rows)
    enough = min(size, CHUNK) * PARTS * processes
    first = list(islice(waiting, enough))
    if len(first) < enough:
        size = min(size, max(SMALLEST, -(-len(first) // (PARTS * processes))))
    return chunks(chain(first, waiting), size)


def report_of_error(error: str) -> Report:
    """The report on a row that was not answered."""
    return {**dict.fromkeys(REPORT), "error": error}


def _nulled(report: Report) -> Report:
    """A report of the model, whose columns have no nulls, as it is written."""
    return report_of_error(report["error"]) if report["error"] else {**report, "error": None}


def _request(recipe: Recipe, row: Row) -> dict[str, Any]:
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
