"""Redaction by rule: what a finder finds becomes a typed placeholder, `[EMAIL]`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmflow.errors import SlmflowError
from slmflow.monitoring.patterns import FINDERS, Finder, Span, names_secret

NAME = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
SECONDS = 2.0
"""What an own rule may take on one text: a regular expression can take years."""


class Redactor:
    """The shipped rules and the user's own; `counts` says how often each name was put in."""

    def __init__(self, own: dict[str, Finder] | None = None) -> None:
        # One's own first: an order number of theirs may look like a phone number.
        self._finders = {**(own or {}), **FINDERS}
        self.counts: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """The text with a placeholder for everything that was found; without findings it stays as it was.

        Half a surrogate pair, which no file can hold, becomes U+FFFD.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # Parts that are open still; what was redacted is never looked at again.
        parts = [(text, True)]
        for name, finder in self._finders.items():
            parts = [piece for part in parts for piece in self._split(name, finder, *part)]
        return "".join(part for part, _ in parts)

    def value(self, value: Any) -> Any:
        """A JSON value with every text in it redacted, keys too; a number that would be becomes text."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self._field(key, item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            said = repr(value)
            redacted = self.text(said)
            return value if redacted == said else redacted
        return value

    def _field(self, key: Any, item: Any) -> Any:
        scalar = isinstance(item, (str, int, float)) and not isinstance(item, bool) and item != ""
        if scalar and names_secret(str(key)):
            self.counts["SECRET"] += 1
            return "[SECRET]"
        if key == "arguments" and isinstance(item, str):  # of a tool call: JSON that must stay JSON
            try:
                return json.dumps(self.value(json.loads(item)))
            except (ValueError, RecursionError):
                pass
        return self.value(item)

    def _split(self, name: str, finder: Finder, text: str, is_open: bool) -> Iterator[tuple[str, bool]]:
        if not is_open:
            yield text, False
            return
        at = 0
        for start, end in _apart(finder(text)):
            self.counts[name] += 1
            yield text[at:start], True
            yield f"[{name}]", False
            at = end
        yield text[at:], True


def _apart(spans: Iterator[Span]) -> list[Span]:
    """In order, those that overlap as one: a finder may look for several shapes, one after the other."""
    apart: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], end))
        else:
            apart.append((start, end))
    return apart


def read_rules(path: str | None) -> dict[str, Finder]:
    """A user's rules: a YAML file of `NAME: regular expression`. None is no rules.

    Raises SlmflowError naming the rule that cannot be used, before anything is read or asked.
    """
    if path is None:
        return {}
    import regex
    import yaml

    try:
        given = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SlmflowError(f"monitoring.rules={path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SlmflowError(f"monitoring.rules={path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or not given:
        raise SlmflowError(f"monitoring.rules={path}: must be a mapping of NAME: regular expression")
    finders: dict[str, Finder] = {}
    for name, pattern in given.items():
        where = f"monitoring.rules={path}: {str(name)[:60]}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise SlmflowError(f"{where}: a name is of A-Z, 0-9 and _, such as CUSTOMER")
        if name in FINDERS:
            raise SlmflowError(f"{where}: there is a shipped rule of that name; choose another")
        if not isinstance(pattern, str):
            raise SlmflowError(f"{where}: the regular expression must be text")
        try:
            compiled = regex.compile(pattern)
            matches_nothing = compiled.search("", timeout=SECONDS) is not None
        except (regex.error, TimeoutError, RecursionError, OverflowError) as error:
            raise SlmflowError(f"{where}: no regular expression: {error}") from None
        if matches_nothing:
            raise SlmflowError(f"{where}: matches the empty text, so it would match everywhere")
        finders[name] = _own(where, compiled)
    return finders


def _own(where: str, compiled: Any) -> Finder:
    """`regex` and not `re`, which has no limit of time."""

    def find(text: str) -> Iterator[Span]:
        try:
            yield from [found.span() for found in compiled.finditer(text, timeout=SECONDS)]
        except TimeoutError:
            raise SlmflowError(
                f"{where}: took more than {SECONDS:g} seconds on a text of {len(text):,} characters; "
                "a repetition inside a repetition does that"
            ) from None

    return find
