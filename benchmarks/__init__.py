"""Scripts that measure; each prints a table and writes its rows into benchmarks/results/<script>.json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from benchmarks import _results
from benchmarks._machine import of_this_machine
from slmflow.errors import SlmflowError, exit_status


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


def publish(script: str, rows: list[Row], *, whole: bool) -> None:
    """Print the table and write it; a missed goal stays in it as missed.

    `whole`: nothing was left out, so that rows of this machine that are not among these go. Rows of other
    machines stay. Raises SlmflowError, the file as it was, where it is no list of rows.
    """
    machine = of_this_machine()
    table = Table("figure", "ours", "peer", "ratio", "goal", "holds", title=script)
    for entry in rows:
        peer = "" if entry.peer is None else f"{entry.peer:.4g} {entry.unit}"
        ratio = "" if entry.ratio is None else f"{entry.ratio:.2f}"
        holds = "" if entry.goal is None else "yes" if entry.holds else "MISSED"
        table.add_row(entry.name, f"{entry.value:.4g} {entry.unit}", peer, ratio, entry.goal or "", holds)
    Console(width=120).print(table)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    _results.record(script, [asdict(entry) for entry in rows], machine, whole=whole)


def run(script: str, measure: Callable[[dict[str, str]], list[Row]], known: Collection[str] = ()) -> None:
    """A script's `__main__`: measure and publish, and end the process; what is wrong is one line, before.

    `known` are the words `key=value` that the script takes; with any of them it measures a part only.
    """

    def work() -> int:
        words = words_of(sys.argv[1:], known)
        _results.recorded(script)
        publish(script, measure(words), whole=not words)
        return 0

    sys.exit(exit_status(f"benchmark {script}", work))


def words_of(arguments: list[str], known: Collection[str]) -> dict[str, str]:
    """The arguments `key=value`. Raises SlmflowError for another key, or what is no such word."""
    words = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in known or not value:
            takes = " and ".join(f"{one}=…" for one in known) or "no words"
            raise SlmflowError(f"{argument} is not known: it takes {takes}")
        words[key] = value
    return words
