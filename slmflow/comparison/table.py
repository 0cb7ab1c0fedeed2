"""The table: every candidate's figures, who is best, and how far each is from the baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slmflow.comparison.columns import COLUMNS, Column
from slmflow.comparison.entry import Entry
from slmflow.comparison.groups import PARTS, letters_of
from slmflow.quality.cost import busy

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Cell:
    """One figure of one candidate."""

    value: float | None
    """None for what was not measured, and for NaN and infinities, whose text says which."""
    error: float | None
    text: str
    difference: str
    """To the baseline, with its standard error or as a multiple; empty for the baseline itself."""
    best: bool
    group: str
    """Letter of those that it may be compared with, where the column holds several; else empty."""


@dataclass(frozen=True)
class Table:
    """Columns that somebody has a figure for, and a row of cells for each entry."""

    entries: list[Entry]
    columns: list[Column]
    rows: list[list[Cell]]
    baseline: Entry
    notes: list[str]
    """What may not be compared, a sentence each."""


def make_table(entries: list[Entry]) -> Table:
    """Hold entries against each other; the baseline is the first pipeline, else the first entry."""
    baseline = next((entry for entry in entries if entry.is_pipeline), entries[0])
    columns = [column for column in COLUMNS if any(_has(entry, column.key) for entry in entries)]
    letters = {part: letters_of(entries, part) for part in PARTS}
    best = {column.key: _best(entries, column, letters[column.part]) for column in columns}
    rows = [
        [
            _cell(entry, column, baseline, letters[column.part], entry.run_id in best[column.key])
            for column in columns
        ]
        for entry in entries
    ]
    return Table(entries, columns, rows, baseline, _notes(entries, letters))


def _has(entry: Entry, key: str) -> bool:
    return entry.figure(key) is not None or bool(entry.broken(key))


def _best(entries: list[Entry], column: Column, letters: dict[str, str]) -> set[str]:
    """Runs with the best figure of their group; none where a group has a single one."""
    found: set[str] = set()
    if not column.better:
        return found
    for letter in set(letters.values()):
        values = {
            entry.run_id: value
            for entry in entries
            if letters.get(entry.run_id) == letter and (value := entry.figure(column.key)) is not None
        }
        if len(values) > 1 and len(set(values.values())) > 1:
            bound = (min if column.better == "lower" else max)(values.values())
            found |= {run for run, value in values.items() if value == bound}
    return found


def _cell(entry: Entry, column: Column, baseline: Entry, letters: dict[str, str], best: bool) -> Cell:
    value, error = entry.figure(column.key), entry.figure(column.error_key)
    if value is None:
        return Cell(None, None, entry.broken(column.key) or NOT_MEASURED, "", False, "")
    letter = letters.get(entry.run_id, "")
    difference = ""
    if entry is not baseline and letter == letters.get(baseline.run_id, ""):
        difference = _difference(entry, baseline, column)
    return Cell(value, error, column.written(value), difference, best, letter)


def _difference(entry: Entry, baseline: Entry, column: Column) -> str:
    """Differences of figures that have errors are given theirs, as of independent measurements."""
    value, base = entry.figure(column.key), baseline.figure(column.key)
    plain = column.key.startswith("fidelity.") or column.key in ("tasks.flips", "tasks.items")
    if value is None or base is None or plain:
        return ""  # these are distances to the reference already, or numbers of what was asked
    if column.relative:
        return f"{value / base:.2f} ×" if base else ""
    errors = [one.figure(column.error_key) or 0.0 for one in (entry, baseline)]
    return f"{value - base:+.2f} ± {math.hypot(*errors):.2f}"


def _notes(entries: list[Entry], letters: dict[str, dict[str, str]]) -> list[str]:
    said = {
        "fidelity": "Fidelity was measured against {n} references (other weights, text or windows)",
        "tasks": "Tasks were measured on {n} sets of items",
        "cost": "Speed and memory were measured on {n} machines",
    }
    notes = []
    for part, text in said.items():
        groups = sorted(set(letters[part].values()) - {""}, key=lambda one: (len(one), one))
        if groups:
            of = "; ".join(f"{letter}: {_example(entries, letters[part], letter, part)}" for letter in groups)
            notes.append(f"{text.format(n=len(groups))}: compare only within a letter. {of}.")
    return notes + _speeds(entries)


def _speeds(entries: list[Entry]) -> list[str]:
    """Which speeds are of a busy machine, and which are medians where others are of the fastest answer."""
    notes = [
        f"{entry.label}: its speed is of a busy machine, {why}."
        for entry in entries
        if (why := busy(entry.evaluation))
    ]
    timed = [entry for entry in entries if entry.figure("cost.decode_tokens_per_second") is not None]
    older = [one.label for one in timed if one.figure("cost.decode_tokens_per_second_median") is None]
    if 0 < len(older) < len(timed):
        notes.append(f"Speeds are of the fastest answer, but medians of these: {', '.join(older)}.")
    return notes


def _example(entries: list[Entry], letters: dict[str, str], letter: str, part: str) -> str:
    members = [entry for entry in entries if letters.get(entry.run_id) == letter]
    if part == "cost":
        return members[0].machine or "not said"
    return ", ".join(entry.label for entry in members)
