"""The table: every candidate's figures, who is best, and how far each is from the baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from slmflow.comparison.columns import COLUMNS, Column
from slmflow.comparison.entry import Entry


@dataclass(frozen=True)
class Cell:
    """One figure of one candidate."""

    value: float | None
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
    columns = [column for column in COLUMNS if any(entry.figure(column.key) is not None for entry in entries)]
    letters = {part: _letters(entries, part) for part in ("fidelity", "tasks", "cost", "size")}
    best = {column.key: _best(entries, column, letters[column.part]) for column in columns}
    rows = [
        [
            _cell(entry, column, baseline, letters[column.part], entry.run_id in best[column.key])
            for column in columns
        ]
        for entry in entries
    ]
    return Table(entries, columns, rows, baseline, _notes(entries, letters))


def group_of(entry: Entry, part: str) -> Any:
    """What an entry's figures of a part are relative to: figures of different groups are not comparable."""
    return {"fidelity": entry.reference, "tasks": entry.tasks, "cost": entry.machine, "size": ""}[part]


def _letters(entries: list[Entry], part: str) -> dict[str, str]:
    """Run id to the letter of its group; empty letters where all are of one."""
    measured = [entry for entry in entries if _measured(entry, part)]
    groups = list(dict.fromkeys(group_of(entry, part) for entry in measured))
    if len(groups) < 2:
        return {entry.run_id: "" for entry in entries}
    return {entry.run_id: chr(ord("A") + groups.index(group_of(entry, part)) % 26) for entry in measured}


def _measured(entry: Entry, part: str) -> bool:
    return bool(entry.evaluation.get("cost" if part == "size" else part))


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
        return Cell(None, None, "not measured", "", False, "")
    letter = letters.get(entry.run_id, "")
    difference = ""
    if entry is not baseline and letter == letters.get(baseline.run_id, ""):
        difference = _difference(entry, baseline, column)
    return Cell(value, error, column.written(value), difference, best, letter)


def _difference(entry: Entry, baseline: Entry, column: Column) -> str:
    """Differences of figures that have errors are given theirs, as of independent measurements."""
    value, base = entry.figure(column.key), baseline.figure(column.key)
    if value is None or base is None or column.key.startswith("fidelity.") or column.key == "tasks.flips":
        return ""  # these are distances to the reference already
    if column.relative:
        return f"{value / base:.2f} ×" if base else ""
    errors = [one.figure(column.error_key) or 0.0 for one in (entry, baseline)]
    return f"{value - base:+.2f} ± {math.hypot(*errors):.2f}"


def _notes(entries: list[Entry], letters: dict[str, dict[str, str]]) -> list[str]:
    said = {
        "fidelity": "Fidelity was measured against {n} references (other weights or another text)",
        "tasks": "Tasks were measured on {n} sets of items",
        "cost": "Speed and memory were measured on {n} machines",
    }
    notes = []
    for part, text in said.items():
        groups = sorted(set(letters[part].values()) - {""})
        if groups:
            of = "; ".join(f"{letter}: {_example(entries, letters[part], letter, part)}" for letter in groups)
            notes.append(f"{text.format(n=len(groups))}: compare only within a letter. {of}.")
    return notes


def _example(entries: list[Entry], letters: dict[str, str], letter: str, part: str) -> str:
    members = [entry for entry in entries if letters.get(entry.run_id) == letter]
    if part == "cost":
        return members[0].machine or "not said"
    return ", ".join(entry.label for entry in members)
