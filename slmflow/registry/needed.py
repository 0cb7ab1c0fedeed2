"""How much has to be measured so that the gate's margins can let an equal candidate pass at all.

The gate asks that a difference to the champion and ERRORS of its standard errors fit into a margin. With few
tokens or items those errors alone exceed it, and even an identical model misses.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slmflow.config import GateConfig, Threshold

ERRORS = 1.645
"""Standard errors of the difference that must fit into a margin: a one-sided bound of 95 %."""
KL_SPREAD = 3.0
"""Standard deviation of the KL divergence over its mean, at most: 0.9 was measured of int8."""
FLIPS = 0.1
"""Share of a kind's items whose correctness differs from the champion's, where none was seen yet: int8 of the
default model differs from its pipeline on 0.03, and each of two candidates may differ on its own."""


def rows_for(gate: GateConfig, parameters: float | None) -> list[Threshold]:
    """The rows that can judge a candidate of a size, whatever its precision; an unknown one is large."""
    size = math.inf if parameters is None else parameters
    found = []
    for row in gate.thresholds:
        if size < row.max_parameters or math.isinf(row.max_parameters):
            found.append(row)
            if not row.precisions:
                break
    return found


def tokens_needed(gate: GateConfig, parameters: float | None) -> float:
    """Scored tokens with which an identical model passes every row of its size; infinite where none suffice.

    Both errors are those of independent samples, as the gate takes them. Agreement varies most where it is
    least, at `min_top1`; KL divergence, taken to have KL_SPREAD, at `max_kl`.
    """
    return max((tokens_of_row(row) for row in rows_for(gate, parameters)), default=0)


def tokens_of_row(row: Threshold) -> float:
    """Scored tokens with which an identical model passes a row."""
    least = max(row.min_top1, 0.5)  # below a half its variance falls again
    agreement = least * (1 - least) if row.max_top1_decrease < 1 else 0.0
    divergence = (KL_SPREAD * row.max_kl) ** 2 if math.isfinite(row.max_kl_increase) else 0.0
    return max(_samples(agreement, row.max_top1_decrease), _samples(divergence, row.max_kl_increase))


def _samples(variance: float, margin: float) -> float:
    """The number of positions of either side at which ERRORS errors of the difference are the margin."""
    if variance == 0:
        return 0
    return math.ceil(2 * variance * (ERRORS / margin) ** 2) if margin else math.inf


def items_needed(kinds: Sequence[str], margin: float, flips: Mapping[str, float] | None = None) -> float:
    """Items, of `kinds` in the order in which they are asked, with which an equal candidate passes.

    `flips` is the share of each kind that changes its correctness, as many for better as for worse; FLIPS
    where it is not known. The score is the mean of the kinds', so each kind's error counts by itself.
    Infinite where all of them do not suffice.
    """
    if margin >= 1 or not kinds:
        return 0
    shares = {kind: (flips or {}).get(kind, FLIPS) for kind in set(kinds)}
    counts: Counter[str] = Counter()
    for number, kind in enumerate(kinds, 1):
        counts[kind] += 1
        if len(counts) == len(shares) and _bound(shares, counts) <= margin:
            return number
    return math.inf


def enough_items(kinds: Sequence[str], margin: float) -> bool:
    """Whether items of these kinds are as many as a margin needs at FLIPS.

    The error that was found does not tell: few items may not differ by chance, and then it is 0.
    """
    return _bound(dict.fromkeys(kinds, FLIPS), Counter(kinds)) <= margin


def _bound(shares: Mapping[str, float], counts: Mapping[str, int]) -> float:
    # The sample's variance, as the gate's: shares of n items over n - 1.
    errors = (share / max(counts[kind] - 1, 1) for kind, share in shares.items())
    return ERRORS * math.sqrt(sum(errors)) / len(shares)
