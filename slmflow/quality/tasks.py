"""How well a candidate does tasks: offline, by likelihood, exact match, rules and schemas; no judge.

Multiple choice as lm-evaluation-harness scores it: `acc` takes the choice whose continuation has the greatest
summed log-probability, `acc_norm` the greatest per character. `flips` is the share of items whose correctness
differs from the reference's, either way ("Accuracy is Not All You Need", arXiv 2407.09141).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.quality.rules import is_valid_json, keeps, normalised

if TYPE_CHECKING:
    from slmflow.quality.candidates import Chat
    from slmflow.quality.items import Item

SHOWN = (
    ("What is the capital of Portugal?", "Lisbon"),
    ("How many fingers are on one hand?", "5"),
    ("What colour is coal?", "black"),
)
"""Turns before each closed question, which show how long an answer is wanted."""
MEASURES = {"multiple_choice": "acc", "closed": "exact_match", "instruction": "rules_kept", "json": "valid"}
"""What the score of a kind is called elsewhere."""


@dataclass(frozen=True)
class Row:
    """One item's outcome."""

    id: str
    kind: str
    correct: bool
    answer: str
    """What was chosen or said."""
    expected: str
    correct_norm: bool | None = None
    """Multiple choice by log-probability per character."""


def figures(
    rows: list[Row], reference: list[Row] | None, digest: str, reference_digest: str | None = None
) -> dict[str, Any]:
    """Scores with their binomial standard errors, over all and by kind; flips where there is a reference.

    The score over all is the mean of the kinds' scores, its error that of independent means. With a reference
    whose items had another digest nothing is compared, and `note` says so: an id may be another question.
    """
    other = reference is not None and reference_digest != digest
    theirs = {row.id: row.correct for row in reference or []} if not other else {}
    comparable = bool(theirs) and all(row.id in theirs for row in rows)
    kinds = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        score, error = _share([row.correct for row in mine])
        found: dict[str, Any] = {"items": len(mine), "score": score, "score_se": error, MEASURES[kind]: score}
        if kind == "multiple_choice":
            found["acc_norm"], found["acc_norm_se"] = _share([bool(row.correct_norm) for row in mine])
        kinds[kind] = found | _flips(mine, theirs if comparable else {})
    return {
        "digest": digest,
        **({"note": "flips are not measured: the reference answered other items"} if other else {}),
        "items": len(rows),
        "score": float(np.mean([found["score"] for found in kinds.values()])),
        "score_se": math.sqrt(sum(found["score_se"] ** 2 for found in kinds.values())) / len(kinds),
        **_flips(rows, theirs if comparable else {}),
        "kinds": kinds,
    }


def table(rows: list[Row]) -> dict[str, Any]:
    """As `mlflow.log_table` writes it."""
    values = [asdict(row) for row in rows]
    return {"columns": list(values[0]), "data": [list(row.values()) for row in values]}


def rows_of(table: dict[str, Any]) -> list[Row]:
    """The rows of such a table."""
    return [Row(**dict(zip(table["columns"], row, strict=True))) for row in table["data"]]


def chat_of(item: Item) -> Chat:
    """The messages that ask an item whose answer is generated."""
    shown = [
        {"role": role, "content": text}
        for pair in (SHOWN if item.kind == "closed" else ())
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return [*shown, {"role": "user", "content": item.prompt}]


def judged(item: Item, said: str) -> Row:
    """An answer to a question, held against what the item asks for."""
    if item.kind == "closed":
        accepted = item.fields["answers"]
        correct, expected = normalised(said) in {normalised(answer) for answer in accepted}, accepted[0]
    elif item.kind == "instruction":
        rules = item.fields["rules"]
        correct = all(keeps(said, rule["rule"], rule.get("value")) for rule in rules)
        expected = "; ".join(f"{rule['rule']} {rule.get('value', '')}".strip() for rule in rules)
    else:
        correct, expected = is_valid_json(said, item.fields["schema"]), "JSON of the schema"
    return Row(item.id, item.kind, correct, said, expected)


def line_of(row: Row) -> str:
    """A row as a line of a journal."""
    return json.dumps(asdict(row)) + "\n"


def _share(found: list[bool]) -> tuple[float, float]:
    share = float(np.mean(found))
    return share, math.sqrt(share * (1 - share) / len(found))


def _flips(rows: list[Row], theirs: dict[str, bool]) -> dict[str, float | None]:
    if not theirs:
        return {"flips": None, "flips_se": None}
    share, error = _share([row.correct != theirs[row.id] for row in rows])
    return {"flips": share, "flips_se": error}


def rows_in(journal: Path) -> list[Row]:
    """The whole rows of a journal, up to a torn line; none where there is no file."""
    rows = []
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return rows
