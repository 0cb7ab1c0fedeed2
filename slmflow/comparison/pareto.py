"""The Pareto front of size, fidelity and speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmflow.comparison.groups import groups_of

if TYPE_CHECKING:
    from slmflow.comparison.entry import Entry


@dataclass(frozen=True)
class Point:
    """A candidate by what is traded."""

    entry: Entry
    size: float
    """Bytes."""
    kl: float
    """Mean KL divergence, nats a token."""
    speed: float
    """Decoded tokens a second."""

    def dominates(self, other: Point) -> bool:
        """Whether it is nowhere worse and somewhere better."""
        mine, theirs = (self.size, self.kl, -self.speed), (other.size, other.kl, -other.speed)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def points_of(entries: list[Entry]) -> list[Point]:
    """Those of the largest group that was measured alike: on one machine, against one reference.

    What has a figure that no axis can show (none, NaN, a size or speed of zero) is not among them.
    """
    groups = []
    for group in groups_of(entries, "fidelity", "cost"):
        points = []
        for entry in group:
            size, kl, speed = (
                entry.figure(key)
                for key in ("cost.size_bytes", "fidelity.kl_mean", "cost.decode_tokens_per_second")
            )
            if size and speed and kl is not None and size > 0 and speed > 0:
                points.append(Point(entry, size, kl, speed))
        groups.append(points)
    return max(groups, key=len, default=[])


def front_of(points: list[Point]) -> list[Point]:
    """Those that no other dominates, in the given order."""
    return [point for point in points if not any(other.dominates(point) for other in points)]
