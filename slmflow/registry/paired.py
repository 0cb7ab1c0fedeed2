"""The standard error of a difference of task scores where both answered the same items."""

from __future__ import annotations

import math
import statistics
from typing import Any


def paired_error(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> float | None:
    """Of the difference of two scores, each the mean of its kinds' scores, by their `items.json`.

    Of each kind it is the deviation of the items' differences over the root of their number. None where one
    of the tables is not there, or they are not of the same items.
    """
    mine, other = correct_of(ours), correct_of(theirs)
    if not mine or mine.keys() != other.keys():
        return None
    kinds: dict[str, list[int]] = {}
    for (kind, name), correct in mine.items():
        kinds.setdefault(kind, []).append(correct - other[kind, name])
    variances = [
        statistics.variance(found) / len(found) if len(found) > 1 else float(abs(found[0]))
        for found in kinds.values()
    ]
    return math.sqrt(sum(variances)) / len(kinds)


def correct_of(table: dict[str, Any] | None) -> dict[tuple[str, str], int]:
    """(kind, id) to 1 where the item was answered correctly, else 0; empty for a table of another shape."""
    try:
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] if table else []
        return {(str(row["kind"]), str(row["id"])): int(bool(row["correct"])) for row in rows}
    except (KeyError, TypeError, ValueError):
        return {}
