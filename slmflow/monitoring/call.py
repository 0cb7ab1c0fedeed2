"""One request and what became of it, as far as figures need it: of production, or of a replay."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmflow.monitoring.redaction import Redactor

REFUSALS = (
    "i cannot",
    "i can't",
    "i can not",
    "i could not",
    "i'm not able",
    "i am not able",
    "i'm unable",
    "i am unable",
    "i won't",
    "i will not",
    "i must decline",
    "i have to decline",
    "i refuse",
    "i don't feel comfortable",
    "i do not feel comfortable",
    "i'm sorry",
    "i am sorry",
    "i'm afraid",
    "i apologize",
    "i apologise",
    "my apologies",
    "sorry, ",
    "unfortunately, i",
    "as an ai",
    "as a language model",
    "as a large language model",
    "it is not appropriate",
    "it's not appropriate",
)
"""An answer that begins with one of these counts as a refusal; English only."""
_WANTS_JSON = re.compile(
    r"\b(?:respond|reply|answer|return|output|give|write|produce|generate|format|as|in|only|valid)\b"
    r"[^.?!\n]{0,40}\bJSON\b",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """What became of one request. None is not known, or does not apply."""

    text: str = ""
    """The answer, redacted; tool calls as JSON behind it."""
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    seconds: float | None = None
    """From the request to the whole answer."""
    ended_by_length: bool | None = None
    """Whether max_tokens ended it."""
    empty: bool | None = None
    refusal: bool | None = None
    json_valid: bool | None = None
    """None where no JSON was asked for."""
    error: str | None = None
    """Why there is no answer, redacted; all else but the seconds is then None."""

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the answer by the seconds of the whole call, reading the prompt included."""
        return self.answer_tokens / self.seconds if self.answer_tokens and self.seconds else None


def observed(
    request: dict[str, Any],
    output: Any,
    usage: Any,
    reasons: Any,
    seconds: float | None,
    redactor: Redactor,
) -> Call:
    """A call from the model's raw output: judged as it was said, kept as it is redacted.

    `output` is text, or OpenAI's object; of several answers the first is taken. `usage` has `input_tokens`
    and `output_tokens` where they are known. What a trace holds may be of anybody's shape: nothing is raised.
    """
    text, calls, reason = _said(output)
    if reason is None and isinstance(reasons, (list, tuple)):
        reason = next(iter(reasons), None)
    shown = redactor.text(text) + (json.dumps(redactor.value(calls)) if calls else "")
    return Call(
        text=shown,
        prompt_tokens=_count(usage, "input_tokens"),
        answer_tokens=_count(usage, "output_tokens"),
        seconds=seconds,
        ended_by_length=None if reason is None else reason == "length",
        empty=not text.strip() and not calls,
        refusal=is_refusal(text),
        json_valid=is_json(text) if wants_json(request) and not calls else None,
    )


def failed(error: str, seconds: float | None, redactor: Redactor) -> Call:
    """A call that got no answer."""
    return Call(seconds=seconds, error=redactor.text(error)[:300] or "unknown")


def is_refusal(text: str) -> bool:
    """Whether the answer begins as a refusal does, whatever its case, quotes and marks of emphasis."""
    return text.replace("’", "'").lstrip(" \t\r\n\"'*_#>-").casefold().startswith(REFUSALS)


def wants_json(request: dict[str, Any]) -> bool:
    """Whether JSON was asked for: by `response_format`, or in words by a system message or the last user's.

    The words are one of respond, return, as, in, only, … and JSON at most 40 characters behind it.
    """
    form = request.get("response_format")
    if isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"):
        return True
    messages = request.get("messages")
    if not isinstance(messages, list):
        return _WANTS_JSON.search(str(request.get("prompt", ""))) is not None
    last = [message for message in messages if message.get("role") == "user"][-1:]
    system = [message for message in messages if message.get("role") in ("system", "developer")]
    return any(_WANTS_JSON.search(_content(message)) for message in [*system, *last])


def is_json(text: str) -> bool:
    """Whether the answer, or the one fenced block in it, is JSON."""
    fenced = _FENCE.findall(text)
    try:
        json.loads(fenced[0] if len(fenced) == 1 else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _said(output: Any) -> tuple[str, list[Any], Any]:
    """Text, tool calls without their random ids, and why it ended, of the first answer."""
    if isinstance(output, str):
        return output, [], None
    choices = output.get("choices") if isinstance(output, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        return str(choice.get("text") or ""), [], choice.get("finish_reason")
    given = message.get("tool_calls")
    calls = [
        call.get("function", call)
        for call in (given if isinstance(given, list) else [])
        if isinstance(call, dict)
    ]
    return _content(message), calls, choice.get("finish_reason")


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None


def _content(message: dict[str, Any]) -> str:
    """The text of a message, of a list of parts the texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _refuse(name: str) -> None:
    raise ValueError(name)
