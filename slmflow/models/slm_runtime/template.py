"""Chat templates, rendered as Hugging Face renders them: Jinja in a sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, messages: list[dict[str, Any]], **names: Any) -> str:
    """The prompt of a conversation, ending where the assistant's turn begins.

    `names` are the special tokens and whatever else the template knows (bos_token, tools, …).
    Raises ValueError with the template's own words when it refuses the messages.
    """
    try:
        # Hugging Face always defines these; a template may ask whether they are none.
        names = {"tools": None, "documents": None, **names}
        return _compile(template).render(messages=messages, add_generation_prompt=True, **names)
    except TemplateError as error:
        raise ValueError(f"the chat template refused the messages: {error}") from None


class Generation(Extension):
    """`{% generation %}` marks the assistant's words for training masks; here it only passes them on."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body between the tag and `{% endgeneration %}`."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


@lru_cache(maxsize=8)
def _compile(template: str) -> Template:
    """As `transformers.utils.chat_template_utils._compile_jinja_template`, the same settings and helpers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes HTML; a prompt must not be escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
