"""benchmarks/results/<script>.json: the rows of every machine that measured, a row a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmflow.errors import SlmflowError
from slmflow.files import write_text

RESULTS = Path(__file__).parent / "results"


def recorded(script: str) -> list[dict[str, Any]]:
    """The rows of all machines. Raises SlmflowError for a file that is no list of rows."""
    path = RESULTS / f"{script}.json"
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
        if isinstance(rows, list) and all(isinstance(one["name"], str) for one in rows):
            return rows
        why = "no list of rows"
    except (ValueError, TypeError, KeyError, OSError) as error:
        why = f"no list of rows ({type(error).__name__}: {error})"
    raise SlmflowError(f"{path}: {why}: bring it back with `git checkout`, or remove it, and measure again")


def record(script: str, rows: list[dict[str, Any]], machine: dict[str, str], *, whole: bool) -> None:
    """Write the rows of a machine into the file, which is replaced at once or not at all."""
    every = merged(recorded(script), [{**one, "machine": machine} for one in rows], machine, whole=whole)
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in every)
    write_text(RESULTS / f"{script}.json", f"[\n{lines}\n]\n")


def merged(
    old: list[dict[str, Any]], new: list[dict[str, Any]], machine: dict[str, str], *, whole: bool
) -> list[dict[str, Any]]:
    """What the file holds afterwards: rows that stay, then `new`, which are of `machine`.

    Rows of other machines stay. Of this one stays what was not measured this time, unless the `whole` script
    was, which then no longer has such a row. A row from before machines were recorded (`machine` is null)
    stays until a machine that is known has measured the same.
    """
    names = {one["name"] for one in new}

    def stays(one: dict[str, Any]) -> bool:
        theirs = one.get("machine")
        if theirs == machine and whole:
            return False
        return one["name"] not in names or theirs not in (machine, None)

    return [*({**one, "machine": one.get("machine")} for one in old if stays(one)), *new]
