"""Which task items changed correctness against the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmflow.comparison.entry import Entry


@dataclass(frozen=True)
class Flip:
    """One item, and who answers it otherwise than the baseline."""

    id: str
    kind: str
    expected: str
    baseline: str
    gained: list[str]
    """Labels of those that are right where the baseline is wrong."""
    lost: list[str]


def flips_of(entries: list[Entry], baseline: Entry) -> list[Flip]:
    """Items on which somebody's correctness differs from the baseline's, in the order of the set."""
    others = [entry for entry in entries if entry is not baseline and entry.tasks == baseline.tasks]
    found = []
    for name, row in baseline.items.items():
        theirs = {entry.label: entry.items[name] for entry in others if name in entry.items}
        changed = [label for label, other in theirs.items() if other["correct"] != row["correct"]]
        if changed:
            right = bool(row["correct"])
            found.append(
                Flip(
                    name,
                    str(row["kind"]),
                    str(row["expected"]),
                    str(row["answer"]),
                    [] if right else changed,
                    changed if right else [],
                )
            )
    return found
