"""What is counted of a list of calls: lengths, shares, speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slmflow.monitoring.call import Call

Quantity = Callable[[Call], float | None]
Share = Callable[[Call], bool | None]

QUANTITIES: dict[str, Quantity] = {
    "prompt_tokens": lambda call: call.prompt_tokens,
    "answer_tokens": lambda call: call.answer_tokens,
    "seconds": lambda call: call.seconds if call.error is None else None,
    "tokens_per_second": lambda call: call.tokens_per_second,
}
SHARES: dict[str, Share] = {
    "ended_by_max_tokens": lambda call: call.ended_by_length,
    "empty_answers": lambda call: call.empty,
    "refusals": lambda call: call.refusal,
    "invalid_json": lambda call: None if call.json_valid is None else not call.json_valid,
    "errors": lambda call: call.error is not None,
}
OF_MACHINE = ("seconds", "tokens_per_second")
"""Quantities that mean nothing between machines."""
MEANINGS = {
    "prompt_tokens": "tokens of the request by the model's own tokenizer",
    "answer_tokens": "tokens of the answer",
    "seconds": "from the request to the whole answer",
    "tokens_per_second": "tokens of the answer by the seconds of the whole call",
    "ended_by_max_tokens": "share of answers that max_tokens cut off",
    "empty_answers": "share of answers without text and tool calls",
    "refusals": "share of answers that begin as a refusal does, in English",
    "invalid_json": "of the answers that JSON was asked of, the share that is none",
    "errors": "share of requests without an answer",
}


def values_of(name: str, calls: Sequence[Call]) -> list[float | None]:
    """A quantity, or a share's zeros and ones, a value a call; None where it is not known."""
    if name in QUANTITIES:
        return [QUANTITIES[name](call) for call in calls]
    found = [SHARES[name](call) for call in calls]
    return [None if value is None else float(value) for value in found]


def figures_of(calls: Sequence[Call]) -> dict[str, float]:
    """All figures under flat names; one that nothing is known of is left out.

    Of a quantity the mean, the median (`_p50`) and what 95 % do not exceed (`_p95`).
    """
    figures: dict[str, float] = {"rows": float(len(calls))}
    for name in QUANTITIES:
        known = [value for value in values_of(name, calls) if value is not None]
        if known:
            p50, p95 = np.percentile(known, [50, 95])
            figures |= {f"{name}_mean": float(np.mean(known)), f"{name}_p50": float(p50)}
            figures[f"{name}_p95"] = float(p95)
    for name in SHARES:
        known = [value for value in values_of(name, calls) if value is not None]
        if known:
            figures[name] = float(np.mean(known))
    figures["json_asked"] = float(sum(call.json_valid is not None for call in calls))
    return figures


def identical(first: Sequence[Call], second: Sequence[Call], counted: Sequence[bool]) -> float | None:
    """The share of the rows counted that both answered with the same text; None where both answered none."""
    same = [
        one.text == other.text
        for one, other, count in zip(first, second, counted, strict=True)
        if count and one.error is None and other.error is None
    ]
    return float(np.mean(same)) if same else None


def flat(sides: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Figures of every side as metrics: `champion.refusals`."""
    return {f"{side}.{name}": value for side, figures in sides.items() for name, value in figures.items()}
