"""Hydra's overrides as text: taken apart, and made of what a user typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from slmflow.config.fields import takes_list, takes_text
from slmflow.errors import SlmflowError, first_line

CONF = Path(__file__).resolve().parent.parent / "conf"
PLAIN = re.compile(r"/?[A-Za-z_][A-Za-z0-9_./-]*")
"""A text that Hydra reads as itself without quotes, unless it is one of WORDS."""
FLAGS = ("-m", "--multirun")
"""Words among overrides by which every key may sweep."""
WORDS = ("true", "false", "null", "inf", "nan")


def split_overrides(text: str) -> list[str]:
    """The Hydra overrides in one shell-like string; quotes guard spaces, lists and dicts survive.

    Raises SlmflowError when a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SlmflowError(f"overrides={text!r}: {error}; close the quote or escape it") from None


def key_of(override: str) -> str:
    """The key that an override sets, without Hydra's +, ++ and ~."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def token_of(key: str, value: str) -> str:
    """A key and the value that was typed, as an override that Hydra reads as that value."""
    bare = key.lstrip("+")
    if not takes_text(bare) or value in ("", "null") or (CONF / bare).is_dir():
        return f"{key}={value}"
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """A text in Hydra's quotes; as it is where it needs none.

    In quotes a backslash stands for itself unless a quote follows the row of backslashes that it is in.
    """
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    escaped, backslashes = "", 0
    for letter in text:
        if letter == "'":
            escaped += "\\" * (backslashes + 1)
        backslashes = backslashes + 1 if letter == "\\" else 0
        escaped += letter
    tail = "\\" * backslashes
    return f"'{escaped}{tail}'"


def parsed(override: str) -> Override:
    """An override as Hydra reads it. Raises SlmflowError for one that it cannot read."""
    try:
        (found,) = OverridesParser.create().parse_overrides([override])
    except OverrideParseException as error:
        raise SlmflowError(f"overrides: cannot read {override!r}: {first_line(error)}") from None
    return found


def value_of(override: str) -> str:
    """The value that an override gives, for people: a quoted one without its quotes."""
    if added(override):
        return override.partition("=")[2]
    value = parsed(override).value()
    return value if isinstance(value, str) else override.partition("=")[2]


def added(override: str) -> list[str]:
    """What `gate.licences=+gemma` adds to a list, or `+[gemma,other]`; nothing for any other override."""
    key, _, value = override.partition("=")
    if not value.startswith("+") or not takes_list(key):
        return []
    one = value[1:].strip()
    several = one.startswith("[") and one.endswith("]")
    return [part.strip(" '\"") for part in one[1:-1].split(",")] if several else [one]
