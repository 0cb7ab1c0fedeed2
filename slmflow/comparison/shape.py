"""Whether what was read is an evaluation, with all that a comparison takes from it."""

from __future__ import annotations

from typing import Any

COLUMNS = ("id", "kind", "correct", "answer", "expected")
"""Of the table of items, those that are read."""


def problem_of_shape(evaluation: Any, items: Any) -> str:
    """What is wrong with `evaluation.json` or `items.json` (None for no table); empty if nothing is."""
    if not isinstance(evaluation, dict):
        return "evaluation.json is no JSON object"
    for name in ("candidate", "precision", "fingerprint"):
        if not isinstance(evaluation.get(name), str):
            return f"evaluation.json: {name} must be a text"
    parameters = evaluation.get("parameters", "")
    if parameters is not None and type(parameters) is not int:
        return "evaluation.json: parameters must be a whole number or null"
    if not isinstance(evaluation.get("cost"), dict):
        return "evaluation.json: cost must be a JSON object"
    for name in ("fidelity", "tasks", "machine"):
        if not isinstance(evaluation.get(name), dict | None):
            return f"evaluation.json: {name} must be a JSON object or null"
    if "fidelity" not in evaluation:
        return "evaluation.json: fidelity is missing"
    if items is None:
        return ""
    columns, data = (items.get(name) if isinstance(items, dict) else None for name in ("columns", "data"))
    if not isinstance(columns, list) or not isinstance(data, list) or not {*COLUMNS} <= {*map(str, columns)}:
        return f"items.json: must be a table with the columns {', '.join(COLUMNS)}"
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        return "items.json: a row has not a value for each column"
    return ""
