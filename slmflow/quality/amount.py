"""How many windows and items an evaluation asks: what it has to, and what the time allows beyond that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

SHARES = 100
"""Steps between the least and all in which an amount is looked for."""


@dataclass(frozen=True)
class Amount:
    """Windows of a text, and items in the order of `slmflow.quality.order`."""

    windows: int
    items: int

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Pace:
    """How fast a model works on a machine."""

    reading: float
    """Tokens of a prompt a second."""
    step: float
    """Seconds of a pass that decodes one row."""
    rows: int = 1
    """Answers that are decoded together."""

    def seconds(self, read: float, new: float) -> float:
        """What it takes to read a text and to decode `new` tokens after it, as one of `rows`.

        A pass over many rows reads the weights once, and computes each row as reading computes a token.
        """
        shared = 1 / self.reading if self.rows > 1 else 0.0
        return read / self.reading + new * (self.step / self.rows + shared)


def decide(
    least: Amount, most: Amount, minutes: float | None, seconds: Callable[[Amount], float]
) -> tuple[Amount, float]:
    """An amount from `least` to `most` that takes at most `minutes`, and the seconds that it takes.

    Windows and items grow together, by the same share of what is beyond the least. It is `least` where that
    takes longer, and `most` where there is no limit.
    """
    amounts = [_between(least, most, step / SHARES) for step in range(SHARES + 1)]
    for amount in reversed(amounts):
        if minutes is None or amount == least or seconds(amount) <= 60 * minutes:
            return amount, seconds(amount)
    raise AssertionError("the least is always an answer")


def _between(least: Amount, most: Amount, share: float) -> Amount:
    return Amount(
        least.windows + round(share * (most.windows - least.windows)),
        least.items + round(share * (most.items - least.items)),
    )


def costs(
    pace: Pace, window: float, loads: Sequence[tuple[float, float]], rest: float
) -> Callable[[Amount], float]:
    """Seconds of an amount: of each window, of each item by its tokens read and new, and of the rest."""
    sums = list(accumulate((pace.seconds(read, new) for read, new in loads), initial=0.0))
    return lambda amount: rest + amount.windows * window + sums[min(amount.items, len(loads))]
