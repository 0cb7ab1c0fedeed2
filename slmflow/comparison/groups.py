"""Who may be compared with whom: figures of two groups stand on different things."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.quality.alike import same_items, same_machine, same_source, same_text

if TYPE_CHECKING:
    from slmflow.comparison.entry import Entry

PARTS = ("fidelity", "tasks", "cost", "size")


def alike(one: Entry, other: Entry, part: str) -> bool:
    """Whether two entries' figures of a part are comparable: one reference, one set of items, one machine."""
    ours, theirs = one.evaluation, other.evaluation
    if part == "fidelity":
        return same_source(ours, theirs) and same_text(ours, theirs)
    if part == "tasks":
        return same_items(ours, theirs)
    return part == "size" or same_machine(ours, theirs)


def groups_of(entries: list[Entry], *parts: str) -> list[list[Entry]]:
    """The entries in groups that are alike in all of the parts, in the order of their first members."""
    groups: list[list[Entry]] = []
    for entry in entries:
        home = next((group for group in groups if all(alike(group[0], entry, part) for part in parts)), None)
        if home is None:
            groups.append([entry])
        else:
            home.append(entry)
    return groups


def letters_of(entries: list[Entry], part: str) -> dict[str, str]:
    """Run id to the letter of its group; empty letters where all that were measured are of one."""
    measured = [entry for entry in entries if entry.evaluation.get("cost" if part == "size" else part)]
    groups = groups_of(measured, part)
    if len(groups) < 2:
        return {entry.run_id: "" for entry in entries}
    return {entry.run_id: letter(at) for at, group in enumerate(groups) for entry in group}


def letter(number: int) -> str:
    """A to Z, then AA, AB and so on, counted from 0."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
