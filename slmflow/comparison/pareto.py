"""The Pareto front of size, fidelity and speed, and the one sentence that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmflow.comparison.table import group_of
from slmflow.registry.gate import threshold_for

if TYPE_CHECKING:
    from slmflow.comparison.entry import Entry
    from slmflow.config import GateConfig

CLOSE = 0.95
"""Candidates at least this many times as fast as the fastest count as equally fast: then size decides."""


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
    """Those of the largest group that was measured alike: on one machine, against one reference."""
    points = []
    for entry in entries:
        values = [
            entry.figure(key)
            for key in ("cost.size_bytes", "fidelity.kl_mean", "cost.decode_tokens_per_second")
        ]
        if None not in values:
            points.append(Point(entry, *(float(value or 0.0) for value in values)))
    alike: dict[object, list[Point]] = {}
    for point in points:
        alike.setdefault((group_of(point.entry, "fidelity"), group_of(point.entry, "cost")), []).append(point)
    return max(alike.values(), key=len, default=[])


def front_of(points: list[Point]) -> list[Point]:
    """Those that no other dominates, in the given order."""
    return [point for point in points if not any(other.dominates(point) for other in points)]


def recommend(points: list[Point], gate: GateConfig) -> tuple[Entry | None, str]:
    """The candidate to ship, and the sentence that says so with its rule."""
    rule = (
        "the fastest ONNX candidate within the gate's KL divergence and top-1 agreement; "
        f"of those at least {CLOSE:g} × as fast, the smallest"
    )
    passing = [point for point in points if not point.entry.is_pipeline and _passes(point.entry, gate)]
    if not passing:
        return None, f"Ship none of these: no ONNX candidate is within the gate's limits (rule: {rule})."
    fastest = max(point.speed for point in passing)
    chosen = min(
        (point for point in passing if point.speed >= CLOSE * fastest),
        key=lambda point: (point.size, point.kl, -point.speed, point.entry.label),
    )
    figures = f"{chosen.speed:.0f} tokens/s, KL {chosen.kl:.2g}, {chosen.size / 1e6:.0f} MB"
    return chosen.entry, f"Ship {chosen.entry.label}: {figures} (rule: {rule})."


def _passes(entry: Entry, gate: GateConfig) -> bool:
    evaluation = entry.evaluation
    limits = threshold_for(gate, evaluation["parameters"], evaluation["precision"])
    kl, top1 = entry.figure("fidelity.kl_mean"), entry.figure("fidelity.top1_agreement")
    if limits is None or kl is None or top1 is None:
        return limits is None
    return kl <= limits.max_kl and top1 >= limits.min_top1
