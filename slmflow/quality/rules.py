"""Rules that an answer keeps or breaks, whatever the language model: as IFEval's (arXiv 2311.07911)."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from typing import Any, NamedTuple

from slmflow.quality.schema import accepts


class Rule(NamedTuple):
    """One rule: the type of its value (None: it takes none), and whether an answer keeps it."""

    value: type | None
    kept: Callable[[str, Any], bool]


def _lines(answer: str) -> int:
    return sum(bool(line.strip()) for line in answer.splitlines())


RULES = {
    "contains": Rule(str, lambda answer, value: value.casefold() in answer.casefold()),
    "excludes": Rule(str, lambda answer, value: value.casefold() not in answer.casefold()),
    "starts_with": Rule(str, lambda answer, value: answer.strip().casefold().startswith(value.casefold())),
    "ends_with": Rule(str, lambda answer, value: answer.strip().casefold().endswith(value.casefold())),
    "matches": Rule(str, lambda answer, value: re.fullmatch(value, answer.strip()) is not None),
    "lower_case": Rule(None, lambda answer, value: answer == answer.lower() and answer != answer.upper()),
    "upper_case": Rule(None, lambda answer, value: answer == answer.upper() and answer != answer.lower()),
    "at_most_words": Rule(int, lambda answer, value: len(answer.split()) <= value),
    "at_least_words": Rule(int, lambda answer, value: len(answer.split()) >= value),
    "lines": Rule(int, lambda answer, value: _lines(answer) == value),
    "bullets": Rule(int, lambda answer, value: len(re.findall(r"(?m)^\s*[-*•]\s+\S", answer)) == value),
}
"""By name. Letters' case counts only where the rule is about it; an answer without a word keeps none."""
PUNCTUATION = frozenset(string.punctuation)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def keeps(answer: str, rule: str, value: Any) -> bool:
    """Whether an answer keeps a rule."""
    return bool(answer.strip()) and RULES[rule].kept(answer, value)


def is_valid_json(answer: str, schema: dict[str, Any]) -> bool:
    """Whether the answer, or the one fenced block in it, is JSON that the schema accepts (draft 2020-12)."""
    fenced = _FENCE.findall(answer)
    try:
        value = json.loads(fenced[0] if len(fenced) == 1 else answer, parse_constant=_refuse)
    except (ValueError, RecursionError):  # no JSON, or too deep
        return False
    return accepts(schema, value)


def normalised(answer: str) -> str:
    """As `normalize_answer` of SQuAD's evaluate-v1.1.py: no case, ASCII punctuation, articles, double spaces.

    Like there punctuation is deleted and leaves no space: "twenty-four" equals "twentyfour".
    """
    bare = "".join(letter for letter in answer.lower() if letter not in PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _refuse(name: str) -> None:
    raise ValueError(name)
