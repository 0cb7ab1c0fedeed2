"""Task items: what a candidate is asked, and what counts as right.

A row of the file is a JSON object with `id`, `kind`, and the fields of its kind:

    {"id": "…", "kind": "multiple_choice", "question": "…", "choices": ["…", "…"], "answer": 0}
    {"id": "…", "kind": "multiple_choice", "text": "She drank", "choices": ["tea.", …], "answer": 0}
    {"id": "…", "kind": "closed", "question": "…", "answers": ["Berlin", …]}
    {"id": "…", "kind": "instruction", "prompt": "…", "rules": [{"rule": "at_most_words", "value": 20}, …]}
    {"id": "…", "kind": "json", "prompt": "…", "schema": {…}}
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmflow.errors import SlmflowError, first_line
from slmflow.files import canonical_digest
from slmflow.quality.rules import RULES, normalised
from slmflow.quality.schema import problem_of
from slmflow.tracking import raise_problem

SHIPPED = Path(__file__).parents[1] / "data" / "tasks.jsonl"
FIELDS: dict[str, dict[str, type]] = {
    "multiple_choice": {"question": str, "text": str, "choices": list, "answer": int},
    "closed": {"question": str, "answers": list},
    "instruction": {"prompt": str, "rules": list},
    "json": {"prompt": str, "schema": dict},
}
"""Kind to its fields; multiple choice has either `question` or `text`."""
NEW_TOKENS = {"closed": 12, "instruction": 64, "json": 64}
"""Tokens of an answer, at most, of a kind that is answered in words."""
NAMES = {
    str: "a text that is not empty",
    int: "a whole number",
    list: "a list that is not empty",
    dict: "an object",
}


@dataclass(frozen=True)
class Item:
    """One row, checked."""

    id: str
    kind: str
    fields: dict[str, Any]

    @property
    def prompt(self) -> str:
        """What a chat model is asked; for multiple choice, what comes before each choice."""
        if "text" in self.fields:
            return str(self.fields["text"])
        if self.kind == "multiple_choice":
            return f"Question: {self.fields['question']}\nAnswer:"
        return str(self.fields["question" if self.kind == "closed" else "prompt"])


@dataclass(frozen=True)
class Items:
    """What a set holds, in its order."""

    rows: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """The sha256 of all rows, as 64 hexadecimal digits."""
        return canonical_digest([[item.id, item.kind, item.fields] for item in self.rows])


def read_items(name: str) -> Items:
    """`shipped`, the path of a JSONL file, or `dataset:<name>` for one of MLflow's evaluation datasets.

    Raises SlmflowError naming the row and the field; nothing is read by halves.
    """
    if name.startswith("dataset:"):
        return _dataset(name)
    path = SHIPPED if name == "shipped" else Path(name)
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise SlmflowError(f"evaluate.items={name}: cannot be read: {error.strerror}") from None
    rows = [(f"line {number}", _object(line)) for number, line in enumerate(lines, 1) if line.strip()]
    return _checked(name, rows)


def _dataset(name: str) -> Items:
    """Records with `inputs` (the fields, or `question`) and `expectations` (the rest)."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        dataset = mlflow.genai.datasets.get_dataset(name=name.removeprefix("dataset:"))
        records = dataset.to_df().to_dict("records")
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"evaluate.items={name}: MLflow says: {str(error).splitlines()[0]}") from None
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, record in enumerate(records, 1):
        both = {**(record.get("inputs") or {}), **(record.get("expectations") or {})}
        if "expected_response" in both:
            both["answers"] = [both.pop("expected_response")]
        rows.append((f"record {number}", {"id": record.get("dataset_record_id"), "kind": "closed", **both}))
    rows.sort(key=lambda row: str(row[1]["id"]))
    return _checked(name, rows)


def _checked(name: str, rows: Sequence[tuple[str, dict[str, Any] | str]]) -> Items:
    items: dict[str, Item] = {}
    for place, row in rows:
        problem = row if isinstance(row, str) else _problem(row)
        if isinstance(row, str) or problem:
            raise SlmflowError(f"evaluate.items={name}, {place}: {problem}")
        if row["id"] in items:
            raise SlmflowError(f"evaluate.items={name}, {place}: id {row['id']!r} is there twice")
        fields = {key: value for key, value in row.items() if key not in ("id", "kind")}
        items[row["id"]] = Item(row["id"], row["kind"], fields)
    if not items:
        raise SlmflowError(f"evaluate.items={name}: there is no item in it")
    return Items(tuple(items.values()))


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        value = json.loads(
            line.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once
        )
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except _AmbiguousError as error:
        return str(error)
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError):
        return "it is not JSON"
    return value if isinstance(value, dict) else "it is not a JSON object"


def _problem(row: dict[str, Any]) -> str:
    """What is wrong with a row; empty for a good one."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair, which no tokenizer can read"
    except RecursionError:
        return "it is nested too deeply"
    if not isinstance(row.get("id"), str) or not row["id"]:
        return "id must be a text that is not empty"
    known = FIELDS.get(row["kind"]) if isinstance(row.get("kind"), str) else None
    if known is None:
        return f"kind={row.get('kind')!s:.40}: must be one of {', '.join(FIELDS)}"
    if {"question", "text"} <= set(row) and "text" in known:
        return "it has both question and text: give one"
    wanted = set(known) - ({"text"} if "question" in row else {"question"}) if "text" in known else set(known)
    for field in sorted({*row, *wanted} - {"id", "kind"}):
        if field not in wanted:
            return (
                f"{field[:40]!r} is not a field of kind {row['kind']}, which has {', '.join(sorted(wanted))}"
            )
        if field not in row:
            return f"{field} is missing"
        value = row[field].strip() if isinstance(row[field], str) else row[field]
        if not isinstance(value, known[field]) or isinstance(value, bool) or value in ("", []):
            return f"{field}={row[field]!r:.40}: must be {NAMES[known[field]]}"
    return _PROBLEMS[row["kind"]](row)


def _of_choices(row: dict[str, Any]) -> str:
    choices = row["choices"]
    if not _texts(choices) or len(choices) < 2 or len(set(choices)) < len(choices):
        return "choices must be two or more different texts"
    return "" if 0 <= row["answer"] < len(choices) else f"answer must be from 0 to {len(choices) - 1}"


def _of_rules(row: dict[str, Any]) -> str:
    for rule in row["rules"]:
        named = isinstance(rule, dict) and isinstance(rule.get("rule"), str) and rule["rule"] in RULES
        if not named or set(rule) - {"rule", "value"}:
            return (
                f"rules: {rule!r:.60} must hold `value` if its rule has one, and `rule`: {', '.join(RULES)}"
            )
        kind, value = RULES[rule["rule"]].value, rule.get("value")
        if kind is None and value is not None:
            return f"{rule['rule']} takes no value"
        if kind is not None and (type(value) is not kind or not value):
            return f"{rule['rule']} takes a value of type {kind.__name__} that is not empty"
        if isinstance(value, int) and value < 1:
            return f"{rule['rule']} takes a value of at least 1"
        if rule["rule"] == "matches":
            try:
                re.compile(str(value))
            except (re.error, OverflowError, RecursionError) as error:
                return f"matches: {first_line(error)}"
    return ""


def _of_schema(row: dict[str, Any]) -> str:
    return problem_of(row["schema"])


def _of_answers(row: dict[str, Any]) -> str:
    if not _texts(row["answers"]):
        return "answers must be texts that are not empty"
    empty = next((answer for answer in row["answers"] if not normalised(answer)), None)
    # It would be equal to an answer that says nothing.
    return "" if empty is None else f"answers: {empty[:40]!r} is only articles and punctuation"


class _AmbiguousError(ValueError):
    """JSON that readers take in different ways."""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _AmbiguousError(f"the number {text[:20]} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _AmbiguousError(f"the key {twice[:40]!r} is there twice")
    return found


def _texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value.strip() for value in values)


_PROBLEMS = {
    "multiple_choice": _of_choices,
    "closed": _of_answers,
    "instruction": _of_rules,
    "json": _of_schema,
}
