"""Scripts that measure; each prints a table and writes benchmarks/results/<script>.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure beside its peer, measured in the same run."""

    name: str
    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    """value / peer."""
    goal: str | None = None
    holds: bool = True
    """Whether the goal is met; true where none is set."""


def row(
    name: str,
    value: float,
    unit: str,
    peer: float | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """A row whose goal, if any, is on the ratio where there is a peer, else on the value."""
    ratio = value / peer if peer else None
    measured = value if ratio is None else ratio
    if at_most is not None:
        return Row(name, value, unit, peer, ratio, f"<= {at_most:g}", measured <= at_most)
    if at_least is not None:
        return Row(name, value, unit, peer, ratio, f">= {at_least:g}", measured >= at_least)
    return Row(name, value, unit, peer, ratio)


def publish(script: str, rows: list[Row]) -> None:
    """Print the table and write it; a missed goal stays in it as missed."""
    table = Table("figure", "ours", "peer", "ratio", "goal", "holds", title=script)
    for entry in rows:
        peer = "" if entry.peer is None else f"{entry.peer:.4g} {entry.unit}"
        ratio = "" if entry.ratio is None else f"{entry.ratio:.2f}"
        holds = "" if entry.goal is None else "yes" if entry.holds else "MISSED"
        table.add_row(entry.name, f"{entry.value:.4g} {entry.unit}", peer, ratio, entry.goal or "", holds)
    Console(width=120).print(table)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps([asdict(entry) for entry in rows], indent=2) + "\n"
    (RESULTS / f"{script}.json").write_text(text)
