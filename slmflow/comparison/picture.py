"""The picture of what is traded: size across, KL divergence up, speed as the area of a mark."""

from __future__ import annotations

import io
import math
from html import escape
from typing import TYPE_CHECKING

from slmflow.comparison.columns import significant

if TYPE_CHECKING:
    from slmflow.comparison.pareto import Point

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 88, 150, 16, 46
LEAST = 1e-6
"""Divergences below it are drawn there: nobody ships one for being closer than that."""
LINE, LABEL = 15, 130
"""Pixels between two labels' baselines, at least, where they begin within LABEL pixels of each other."""


def floor_of(points: list[Point]) -> float:
    """Where divergences of zero, and those below LEAST, are drawn."""
    return max(min((point.kl for point in points if point.kl > 0), default=1.0) / 10, LEAST)


def svg(points: list[Point], front: list[Point]) -> str:
    """An inline SVG in the page's own colours; empty for fewer than two points."""
    if len(points) < 2:
        return ""
    least = floor_of(points)
    x = _Scale([point.size / 1e6 for point in points], LEFT, WIDTH - RIGHT)
    y = _Scale([max(point.kl, least) for point in points], HEIGHT - BOTTOM, TOP)
    fastest = max(point.speed for point in points)
    parts = [
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>',
        *(
            f'<path class="grid" d="M{x.at(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/><text class="tick" '
            f'text-anchor="middle" x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 18}">{tick:g}</text>'
            for tick in x.ticks()
        ),
        *(
            f'<path class="grid" d="M{LEFT} {y.at(tick):.1f}H{WIDTH - RIGHT}"/><text class="tick" '
            f'text-anchor="end" x="{LEFT - 8}" y="{y.at(tick) + 4:.1f}">{_tick(tick, least)}</text>'
            for tick in y.ticks()
        ),
        f'<text class="tick" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">'
        "size, MB · smaller is better ←</text>",
        f'<text class="tick" transform="rotate(-90 12 {(TOP + HEIGHT - BOTTOM) / 2})" text-anchor="middle" '
        f'x="12" y="{(TOP + HEIGHT - BOTTOM) / 2}">← closer to the reference · KL divergence</text>',
    ]
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: (one.kl, one.size, one.entry.label)):
        across, up = x.at(point.size / 1e6), y.at(max(point.kl, least))
        radius = 4 + 9 * math.sqrt(point.speed / fastest)
        label_at = up + 4
        while any(abs(across - x_of) < LABEL and abs(label_at - y_of) < LINE for x_of, y_of in taken):
            label_at -= LINE
        taken.append((across, label_at))
        kind = "front" if point in front else "behind"
        label = f"{point.entry.label}, {point.speed:.0f} tokens/s"
        said = f"{label}: {point.size / 1e6:.0f} MB, KL {significant(point.kl)}"
        mark = f'<circle class="{kind}" cx="{across:.1f}" cy="{up:.1f}" r="{radius:.1f}">'
        place = f'x="{across + radius + 5:.1f}" y="{label_at:.1f}"'
        parts.append(f"{mark}<title>{escape(said)}</title></circle>")
        parts.append(f'<text class="{kind}" {place}>{escape(point.entry.label)}</text>')
    title = "Size, KL divergence and speed of each candidate; filled marks are on the Pareto front"
    return (
        f'<svg class="trade" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        + "".join(parts)
        + "</svg>"
    )


def png(points: list[Point], front: list[Point]) -> bytes | None:
    """The same as a PNG, the same bytes for the same points; None for fewer than two."""
    if len(points) < 2:
        return None
    from matplotlib.figure import Figure

    least = floor_of(points)
    fastest = max(point.speed for point in points)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for point in points:
        place = (point.size / 1e6, max(point.kl, least))
        area = 30 + 250 * point.speed / fastest
        axes.scatter(*place, s=area, c="#1f5f8b" if point in front else "none", edgecolors="#1f5f8b")
        label = f"{point.entry.label}\\n{point.speed:.0f} tokens/s"
        axes.annotate(label, place, textcoords="offset points", xytext=(11, -5), fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="size, MB", ylabel="KL divergence, nats a token")
    axes.grid(visible=True, alpha=0.25)
    axes.margins(0.15)
    figure.suptitle("Size, fidelity and speed (area); filled: on the Pareto front", fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _tick(value: float, least: float) -> str:
    return f"≤ {significant(value)}" if value <= least else significant(value)


class _Scale:
    """A logarithmic axis with some room at both ends."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.08 * (high - low), 0.06)
        self._low, self._high, self._start, self._end = low - room, high + room, start, end

    def at(self, value: float) -> float:
        """Pixels."""
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Powers of ten, or finer steps where there are fewer than three."""
        first, last = math.floor(self._low), math.ceil(self._high)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            found = [tick for tick in found if self._low <= math.log10(tick) <= self._high]
            if len(found) >= 3:
                break
        every = -(-len(found) // 8)
        return found[::every]
