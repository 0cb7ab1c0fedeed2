"""The files of a comparison, the same bytes for the same evaluations."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from slmflow.comparison.flips import flips_of
from slmflow.comparison.page import html
from slmflow.comparison.pareto import front_of, points_of
from slmflow.comparison.picture import NARROW, png, svg
from slmflow.comparison.recommendation import recommend
from slmflow.comparison.table import NOT_MEASURED, Cell, Table, make_table
from slmflow.files import write_json, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.comparison.entry import Entry
    from slmflow.config import GateConfig


def write_comparison(
    entries: list[Entry], gate: GateConfig, name: str, folder: Path, notes: tuple[str, ...] = ()
) -> str:
    """Leave `comparison.html`, `.json`, `.csv`, `.md` and `.png`; returns the recommendation.

    `notes` are sentences to say beside what may not be compared.
    """
    table, points = make_table(entries), points_of(entries)
    table.notes.extend(notes)
    front = front_of(points)
    chosen, sentence = recommend(entries, gate)
    flips = flips_of(entries, table.baseline)
    pictures = svg(points, front) + svg(points, front, NARROW)
    page = html(table, pictures, sentence, chosen.run_id if chosen else "", flips, name)
    write_text(folder / "comparison.html", page)
    on_front = {point.entry.run_id for point in front}
    write_json(
        folder / "comparison.json",
        {
            "recommendation": sentence,
            "recommended_run": chosen.run_id if chosen else None,
            "baseline_run": table.baseline.run_id,
            "notes": table.notes,
            "candidates": [
                {
                    "run_id": entry.run_id,
                    "label": entry.label,
                    "on_front": entry.run_id in on_front,
                    "machine": entry.machine,
                    "figures": _figures(table, at),
                }
                for at, entry in enumerate(table.entries)
            ],
            "flips": [vars(flip) for flip in flips],
        },
    )
    write_text(folder / "comparison.csv", comma_separated(table))
    write_text(folder / "comparison.md", f"{sentence}\n\n{markdown(table)}")
    picture = png(points, front)
    if picture is not None:
        (folder / "comparison.png").write_bytes(picture)
    return sentence


def comma_separated(table: Table) -> str:
    """A row a candidate, every figure in full precision with its standard error beside it."""
    head = ["run_id", "candidate", "machine"]
    for column in table.columns:
        head += [column.key, f"{column.key}_se"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for entry, cells in zip(table.entries, table.rows, strict=True):
        row: list[Any] = [entry.run_id, entry.label, entry.machine]
        for cell in cells:
            row += [
                _broken(cell) if cell.value is None else repr(cell.value),
                "" if cell.error is None else repr(cell.error),
            ]
        writer.writerow(row)
    return file.getvalue()


def markdown(table: Table) -> str:
    """The table as people paste it; the best in bold."""
    lines = [["candidate", *(column.title for column in table.columns)]]
    lines.append(["---", *("---:" for _ in table.columns)])
    for entry, cells in zip(table.entries, table.rows, strict=True):
        texts = [_marked(cell) for cell in cells]
        lines.append([entry.label.replace("|", "\\|"), *texts])
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n{notes}"


def _marked(cell: Cell) -> str:
    """A figure with the letter of those that it may be compared with, where there are several kinds."""
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} ({cell.group})" if cell.group else text


def _broken(cell: Cell) -> str:
    """`nan` or `inf`, which is a figure though no number; empty for what was not measured."""
    return "" if cell.text == NOT_MEASURED else cell.text


def _figures(table: Table, at: int) -> dict[str, Any]:
    return {
        column.key: {
            "value": cell.value,
            "standard_error": cell.error,
            "best": cell.best,
            "group": cell.group or None,
        }
        for column, cell in zip(table.columns, table.rows[at], strict=True)
        if cell.value is not None or _broken(cell)
    }
