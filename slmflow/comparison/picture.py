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
NARROW = 390
"""Pixels of the page's second picture, which a telephone shows."""
LEFT, RIGHT, TOP, BOTTOM = 88, 150, 16, 46
LEAST = 1e-6
"""Divergences below it are drawn there: nobody ships one for being closer than that."""
LINE, LETTER = 15, 6.6
"""Pixels between the baselines of two labels one above the other, at least; and of a letter's width."""
LONGEST, SHORT = 30, 21
"""Letters of a label that are shown, and in a narrow picture; the mark's title has all of it."""


def floor_of(points: list[Point]) -> float:
    """Where divergences of zero, and those below LEAST, are drawn."""
    return max(min((point.kl for point in points if point.kl > 0), default=1.0) / 10, LEAST)


def svg(points: list[Point], front: list[Point], width: int = WIDTH) -> str:
    """An inline SVG in the page's own colours; empty for fewer than two points.

    In a narrow one no room is kept for labels beside the marks: they stand over the grid.
    """
    if len(points) < 2:
        return ""
    broad, least = width == WIDTH, floor_of(points)
    end = width - (RIGHT if broad else TOP)
    x = _Scale([point.size / 1e6 for point in points], LEFT, end)
    y = _Scale([max(point.kl, least) for point in points], HEIGHT - BOTTOM, TOP)
    fastest = max(point.speed for point in points)
    parts = [
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{end}"/>',
        *(
            f'<path class="grid" d="M{x.at(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/><text class="tick" '
            f'text-anchor="middle" x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 18}">{tick:g}</text>'
            for tick in x.ticks()
        ),
        *(
            f'<path class="grid" d="M{LEFT} {y.at(tick):.1f}H{end}"/><text class="tick" '
            f'text-anchor="end" x="{LEFT - 8}" y="{y.at(tick) + 4:.1f}">{_tick(tick, least)}</text>'
            for tick in y.ticks()
        ),
        f'<text class="tick" text-anchor="middle" x="{(LEFT + end) / 2}" y="{HEIGHT - 8}">'
        "size, MB · smaller is better ←</text>",
        f'<text class="tick" transform="rotate(-90 12 {(TOP + HEIGHT - BOTTOM) / 2})" text-anchor="middle" '
        f'x="12" y="{(TOP + HEIGHT - BOTTOM) / 2}">← closer to the reference · KL divergence</text>',
    ]
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda one: (one.kl, one.size, one.entry.label)):
        across, up = x.at(point.size / 1e6), y.at(max(point.kl, least))
        radius = 4 + 9 * math.sqrt(point.speed / fastest)
        shown = shortened(point.entry.label, LONGEST if broad else SHORT)
        wide, beside = LETTER * len(shown), radius + 5
        left = across + beside if across + beside + wide <= width else max(across - beside - wide, 0.0)
        label_at = _free(left, wide, up + 4, taken)
        taken.append((left, wide, label_at))
        kind = "front" if point in front else "behind"
        label = f"{point.entry.label}, {point.speed:.0f} tokens/s"
        said = f"{label}: {point.size / 1e6:.0f} MB, KL {significant(point.kl)}"
        mark = f'<circle class="{kind}" cx="{across:.1f}" cy="{up:.1f}" r="{radius:.1f}">'
        # Where it stands left of its mark it ends there, however wide the letters are.
        anchor = f'x="{left:.1f}"' if left > across else f'text-anchor="end" x="{left + wide:.1f}"'
        place = f'{anchor} y="{label_at:.1f}"'
        parts.append(f"{mark}<title>{escape(said)}</title></circle>")
        parts.append(f'<text class="{kind}" {place}>{escape(shown)}</text>')
    title = "Size, KL divergence and speed of each candidate; filled marks are on the Pareto front"
    kind = "broad" if broad else "narrow"
    return (
        f'<svg class="trade {kind}" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{title}">'
        + "".join(parts)
        + "</svg>"
    )


def shortened(label: str, longest: int = LONGEST) -> str:
    """A label in at most so many letters, on one line."""
    plain = " ".join(label.split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def _free(
    left: float, width: float, wanted: float, taken: list[tuple[float, float, float]], line: float = LINE
) -> float:
    """The height nearest to the one wanted, within the frame, at which a label covers no other."""
    tries = [wanted, *(wanted + sign * step * LINE for step in range(1, 24) for sign in (-1, 1))]
    within = [at for at in tries if TOP + 8 <= at <= HEIGHT - BOTTOM - 4]
    for at in within:
        if not any(
            abs(at - its_height) < line and left < its_left + its_width and its_left < left + width
            for its_left, its_width, its_height in taken
        ):
            return at
    return within[0] if within else wanted


def png(points: list[Point], front: list[Point]) -> bytes | None:
    """The same as a PNG, the same bytes for the same points; None for fewer than two."""
    if len(points) < 2:
        return None
    from matplotlib.figure import Figure

    least = floor_of(points)
    fastest = max(point.speed for point in points)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    sizes = [point.size for point in points]
    x = _Scale(sizes, LEFT, WIDTH)
    y = _Scale([max(point.kl, least) for point in points], HEIGHT - BOTTOM, TOP)
    taken: list[tuple[float, float, float]] = []
    for point in points:
        place = (point.size / 1e6, max(point.kl, least))
        area = 30 + 250 * point.speed / fastest
        axes.scatter(*place, s=area, c="#1f5f8b" if point in front else "none", edgecolors="#1f5f8b")
        label = f"{shortened(point.entry.label)}\n{point.speed:.0f} tokens/s".replace("$", r"\$")
        # Towards the middle, so that no label leaves the frame.
        side = "right" if x.at(point.size) > (LEFT + WIDTH) / 2 else "left"
        up, width = y.at(place[1]), LETTER * max(map(len, label.split("\n")))
        begins = x.at(point.size) - (width if side == "right" else 0)
        shift = _free(begins, width, up, taken, 2 * LINE) - up
        taken.append((begins, width, up + shift))
        axes.annotate(
            label,
            place,
            textcoords="offset points",
            xytext=(-11 if side == "right" else 11, -5 - shift),
            fontsize=8,
            horizontalalignment=side,
        )
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
