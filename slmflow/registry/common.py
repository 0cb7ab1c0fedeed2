"""What two evaluations have in common, by the tables that they left: windows of a text, items of a set."""

from __future__ import annotations

import math
from typing import Any

from slmflow.quality.alike import CLOSE, finite
from slmflow.registry.paired import correct_of

Table = dict[str, Any]
"""`columns` and `data`, as `mlflow.log_table` writes it."""


def windows_in_common(ours: Table | None, theirs: Table | None) -> set[int]:
    """The windows of a text that both evaluations of one source read, by `windows.json`.

    A window is told by its place, its number of scored tokens and the reference's perplexity on them, which
    threads move by a float's last digits.
    """
    others = {row.get("window"): row for row in _rows(theirs)}
    return {
        int(row["window"])
        for row in _rows(ours)
        if row.get("window") in others and _one_window(row, others[row["window"]])
    }


def _one_window(one: dict[str, Any], other: dict[str, Any]) -> bool:
    values = [finite(row.get("perplexity_reference")) for row in (one, other)]
    if one.get("tokens") != other.get("tokens") or None in values:
        return False
    return math.isclose(*values, rel_tol=CLOSE)  # type: ignore[arg-type]


def fidelity_of(table: Table | None, windows: set[int]) -> dict[str, float] | None:
    """Mean KL divergence and top-1 agreement of some windows, with the errors that all their positions give.

    A window's own mean and error give back the sum and the sum of squares of its positions. None where a
    figure is missing or no number.
    """
    rows = [row for row in _rows(table) if row.get("window") in windows]
    names = ("tokens", "kl_mean", "kl_mean_se", "top1_agreement")
    read = [[finite(row.get(name)) for name in names] for row in rows]
    if not read or any(None in values for values in read):
        return None
    tokens = kl = squares = same = 0.0
    for n, mean, error, agreement in read:
        assert n is not None and mean is not None and error is not None and agreement is not None  # noqa: PT018
        tokens, kl, same = tokens + n, kl + n * mean, same + n * agreement
        squares += (n - 1) * n * error**2 + n * mean**2
    mean, agreement = kl / tokens, same / tokens
    variance = max(squares - tokens * mean**2, 0.0) / max(tokens - 1, 1)
    return {
        "tokens": tokens,
        "kl_mean": mean,
        "kl_mean_se": math.sqrt(variance / tokens),
        "top1_agreement": agreement,
        "top1_agreement_se": math.sqrt(max(agreement * (1 - agreement), 0.0) / tokens),
    }


def items_in_common(ours: Table | None, theirs: Table | None) -> tuple[Table, Table] | None:
    """Both tables' rows of the items that both have; None where there are none.

    Only for tables of one set: in another set an id may be another question.
    """
    common = correct_of(ours).keys() & correct_of(theirs).keys()
    if not common or ours is None or theirs is None:
        return None
    return _only(ours, common), _only(theirs, common)


def score_of(table: Table) -> dict[str, float]:
    """The mean of the kinds' scores and its binomial error, as `slmflow.quality.tasks.figures` has them."""
    kinds: dict[str, list[int]] = {}
    for (kind, _), right in correct_of(table).items():
        kinds.setdefault(kind, []).append(right)
    shares = [(sum(found) / len(found), len(found)) for found in kinds.values()]
    error = math.sqrt(sum(share * (1 - share) / count for share, count in shares)) / len(shares)
    return {"score": sum(share for share, _ in shares) / len(shares), "score_se": error}


def _only(table: Table, keys: set[tuple[str, str]]) -> Table:
    at = {name: table["columns"].index(name) for name in ("kind", "id")}
    kept = [row for row in table["data"] if (str(row[at["kind"]]), str(row[at["id"]])) in keys]
    return {"columns": table["columns"], "data": kept}


def _rows(table: Table | None) -> list[dict[str, Any]]:
    """Empty for a table of another shape."""
    try:
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] if table else []
    except (KeyError, TypeError, ValueError):
        return []
