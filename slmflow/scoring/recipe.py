"""From a row to the request that the model is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from slmflow.config.score import ScoreConfig

SAMPLING = ("max_tokens", "temperature", "top_p", "seed")


class RowError(Exception):
    """Why a row has no answer: one line, for its column `error`."""


@dataclass(frozen=True)
class Recipe:
    """How a request is made of a row."""

    prompt: str = ""
    messages: str = ""
    template: tuple[tuple[str, str], ...] = ()
    """Text and the column after it, in turn; the last column may be empty."""
    chat: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    """Of every request."""

    @property
    def columns(self) -> list[str]:
        """Those that a row must have."""
        if self.template:
            return list(dict.fromkeys(name for _, name in self.template if name))
        return [self.messages or self.prompt]

    def request_of(self, row: dict[str, Any]) -> str:
        """The request as JSON. Raises RowError for a row that has none."""
        if self.messages:
            asked = {"messages": _chat(self.messages, row), **self.fields}
            return _unicode(self.messages, json.dumps(asked, ensure_ascii=False, default=str))
        text = self._text(row)
        asked = {"messages": [{"role": "user", "content": text}]} if self.chat else {"prompt": text}
        return json.dumps({**asked, **self.fields}, ensure_ascii=False)

    def _text(self, row: dict[str, Any]) -> str:
        if not self.template:
            value = _present(self.prompt, row)
            if not isinstance(value, str):
                raise RowError(f"{self.prompt} is {type(value).__name__}, not text")
            return _unicode(self.prompt, value)
        made = ""
        for text, name in self.template:
            made += text
            if name:
                value = _present(name, row)
                if isinstance(value, (dict, list)):
                    value = json.dumps(value, ensure_ascii=False, default=str)
                made += _unicode(name, str(value))
        return made


def recipe_of(config: ScoreConfig) -> Recipe:
    """The recipe of a configuration. Raises SlmflowError for a template that is none."""
    fields = {name: getattr(config, name) for name in SAMPLING if getattr(config, name) is not None}
    if config.deterministic:
        fields["deterministic"] = True
        fields.setdefault("seed", 0)
    if config.messages:
        return Recipe(messages=config.messages, fields=fields)
    if config.template:
        return Recipe(template=_parts(config.template), chat=config.chat, fields=fields)
    return Recipe(prompt=config.prompt or "prompt", chat=config.chat, fields=fields)


def _parts(template: str) -> tuple[tuple[str, str], ...]:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise SlmflowError(f"score.template={template!r}: {error}; a brace itself is {{{{ or }}}}") from None
    for _, name, form, conversion in parsed:
        if name is not None and (not name or form or conversion or set(name) & set(".[]")):
            raise SlmflowError(f"score.template={template!r}: {{{name}}} is no column: give its name alone")
    parts = tuple((text, name or "") for text, name, _, _ in parsed)
    if not any(name for _, name in parts):
        raise SlmflowError(f"score.template={template!r} names no column: write it as {{column}}")
    return parts


def _present(name: str, row: dict[str, Any]) -> Any:
    if name not in row:
        raise RowError(f"it has no {name}")
    if row[name] is None:
        raise RowError(f"{name} is null")
    return row[name]


def _unicode(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"{name} is no valid Unicode") from None
    return text


def _chat(name: str, row: dict[str, Any]) -> Any:
    value = _present(name, row)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError(f"{name} is no JSON") from None
    if not isinstance(value, list) or not all(isinstance(said, dict) for said in value):
        raise RowError(f"{name} is no list of messages")
    return [{key: said[key] for key in said if said[key] is not None} for said in value]
