"""Whether figures of two evaluations may be held against each other."""

from __future__ import annotations

import math
from typing import Any

CLOSE = 1e-6
"""Relative difference of the reference's perplexity up to which two texts without a digest are one."""


def same_source(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are of the same model: the same files, or others that mean the same.

    The latter where both recorded it (`slmflow.sources.meaning`).
    """
    if one.get("source_digest") == other.get("source_digest"):
        return True
    ours, theirs = ((each.get("fidelity") or {}).get("source_meaning") for each in (one, other))
    return bool(ours) and bool(ours == theirs)


def same_text(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether fidelity was measured on the same tokens, scored at the same positions.

    By the digest of the windows. An evaluation from before there was one is told apart by its number of
    tokens and the reference's perplexity, which threads move by a float's last digits.
    """
    ours, theirs = one.get("fidelity") or {}, other.get("fidelity") or {}
    digests = (ours.get("windows_digest"), theirs.get("windows_digest"))
    if None not in digests:
        return bool(digests[0] == digests[1])
    if ours.get("tokens") != theirs.get("tokens"):
        return False
    of_ours, of_theirs = (finite(side.get("perplexity_reference")) for side in (ours, theirs))
    if of_ours is None or of_theirs is None:
        return of_ours is of_theirs
    return math.isclose(of_ours, of_theirs, rel_tol=CLOSE)


def same_items(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the same task items were answered."""
    ours, theirs = ((each.get("tasks") or {}).get("digest") for each in (one, other))
    return bool(ours == theirs)


def same_set(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the task items are of the same set, of which one may have answered more than the other.

    An evaluation from before there were parts of sets answered all of its own.
    """
    ours, theirs = (each.get("tasks") or {} for each in (one, other))
    digests = [tasks.get("set") or tasks.get("digest") for tasks in (ours, theirs)]
    return digests[0] is not None and digests[0] == digests[1]


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether speed and memory were measured on the same machine, by all that is recorded of it."""
    return bool(one.get("machine") == other.get("machine"))


def finite(value: Any) -> float | None:
    """A figure as a number; None for what was not measured, is no number, or is NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
