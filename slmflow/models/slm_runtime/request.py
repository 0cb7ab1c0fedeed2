"""Requests, checked before any work begins: OpenAI's chats and completions, and the plain prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .engine import Description
from .errors import BadRequestError
from .fields import FIELDS, IGNORED
from .grammar import Grammar, Grammars
from .messages import messages_of
from .sampling import Sampling
from .tokenizer import TextTokenizer
from .tools import knows_tools

Kind = Literal["prompt", "completion", "chat"]

UNASKED = frozenset((*IGNORED, "model", "stream", "stream_options"))
"""Fields that change how an answer is sent, or nothing; some of them name a person."""
MOST_STOPS, MOST_ANSWERS, MOST_LOGPROBS = 16, 16, 20


@dataclass(frozen=True)
class Request:
    """One checked request, its prompt as token ids."""

    kind: Kind
    ids: list[int]
    sampling: Sampling
    stop: tuple[str, ...] = ()
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    grammar: Grammar | None = None
    """What every answer obeys; each takes a fresh one."""
    tools: frozenset[str] = field(default_factory=frozenset)
    deterministic: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    """The fields that shape the answer, as they were given: what it takes to ask again."""


class Reader:
    """Reads requests for one model."""

    def __init__(
        self,
        description: Description,
        tokenizer: TextTokenizer,
        grammars: Grammars,
        defaults: Sampling,
        *,
        deterministic: bool,
    ) -> None:
        self._description, self._tokenizer, self._grammars = description, tokenizer, grammars
        self._defaults, self._deterministic = defaults, deterministic

    def read(self, body: dict[str, Any], kind: Kind | None = None) -> Request:
        """Check a request and encode it; without a kind, `messages` make a chat and `prompt` a prompt.

        A default of max_tokens gives way to the room that the context has left; one that was asked for is
        refused when it does not fit. Raises BadRequestError naming the field, its value and what is allowed.
        """
        given = {name: value for name, value in body.items() if value is not None}
        unknown = [name for name in given if name not in FIELDS]
        if unknown:
            raise BadRequestError(
                f"{str(unknown[0])[:60]!r} is not a field of a request", str(unknown[0])[:60]
            )
        if ("prompt" in given) == ("messages" in given):
            raise BadRequestError("give either `prompt` (text) or `messages` (a chat), and not both")
        kind = kind or ("chat" if "messages" in given else "prompt")
        if (kind == "chat") != ("messages" in given):
            wanted = "messages" if kind == "chat" else "prompt"
            raise BadRequestError(f"this route wants `{wanted}`", wanted)
        sampling, asked = self._sampling(given, kind)
        tools = _tools(given)
        ids = self._ids(given, kind, tools)
        sampling = self._fitted(ids, sampling, asked)
        stream_options = _object(given, "stream_options")
        return Request(
            kind=kind,
            ids=ids,
            sampling=sampling,
            stop=_stop(given.get("stop")),
            n=_integer(given, "n", 1, 1, MOST_ANSWERS),
            stream=_boolean(given, "stream", False),
            include_usage=_boolean(stream_options, "include_usage", False),
            grammar=self._grammar(given),
            tools=frozenset(tool["function"]["name"] for tool in tools),
            deterministic=_boolean(given, "deterministic", self._deterministic),
            asked=self._asked(given, ids),
        )

    def _asked(self, given: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        asked = {name: value for name, value in given.items() if name not in UNASKED}
        if "prompt" in asked and not isinstance(asked["prompt"], str):
            asked["prompt"] = self._tokenizer.decode(ids, keep_special=True)
        return asked

    def _sampling(self, given: dict[str, Any], kind: Kind) -> tuple[Sampling, bool]:
        names = [name for name in ("max_completion_tokens", "max_tokens") if name in given]
        asked = names[0] if names else "max_tokens"
        top = None
        if kind == "chat":
            if _boolean(given, "logprobs", False):
                top = _integer(given, "top_logprobs", 0, 0, MOST_LOGPROBS)
            elif "top_logprobs" in given:
                raise BadRequestError("top_logprobs needs logprobs=true", "top_logprobs")
        elif "logprobs" in given and given["logprobs"] is not False:
            top = _integer(given, "logprobs", 0, 0, MOST_LOGPROBS)
        default = self._defaults
        sampling = Sampling(
            max_tokens=_integer(given, asked, default.max_tokens, 1, 2**31 - 1),
            temperature=_number(given, "temperature", default.temperature, 0.0, 2.0),
            top_p=_number(given, "top_p", default.top_p, 0.0, 1.0),
            top_k=_integer(given, "top_k", default.top_k, 0, 2**31 - 1),
            seed=_integer(given, "seed", 0, -(2**63), 2**64 - 1) if "seed" in given else None,
            presence_penalty=_number(given, "presence_penalty", 0.0, -2.0, 2.0),
            frequency_penalty=_number(given, "frequency_penalty", 0.0, -2.0, 2.0),
            top_logprobs=top,
            ignore_eos=_boolean(given, "ignore_eos", default.ignore_eos),
        )
        return sampling, bool(names)

    def _ids(self, given: dict[str, Any], kind: Kind, tools: list[dict[str, Any]]) -> list[int]:
        if kind == "chat":
            messages = messages_of(given["messages"])
            if tools and not knows_tools(self._tokenizer.chat_template):
                raise BadRequestError("this model's chat template has no place for tools", "tools")
            try:
                ids = self._tokenizer.encode_chat(messages, **({"tools": tools} if tools else {}))
            except ValueError as error:
                raise BadRequestError(str(error), "messages") from None
        else:
            ids = self._prompt_ids(given["prompt"])
        if not ids:
            raise BadRequestError("the prompt is empty", "prompt")
        return ids

    def _prompt_ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return self._tokenizer.encode(_unicode(prompt, "prompt"))
        if isinstance(prompt, list) and all(type(token) is int for token in prompt):
            if not all(0 <= token < self._description.vocabulary for token in prompt):
                raise BadRequestError(
                    f"prompt has a token id outside 0..{self._description.vocabulary - 1}", "prompt"
                )
            return prompt
        raise BadRequestError(
            f"prompt must be one text or a list of token ids, not {type(prompt).__name__}", "prompt"
        )

    def _fitted(self, ids: list[int], sampling: Sampling, asked: bool) -> Sampling:
        room = self._description.context_length - len(ids)
        if not asked and 0 < room < sampling.max_tokens:
            return replace(sampling, max_tokens=room)
        try:
            self._description.check_length(ids, sampling.max_tokens)
        except ValueError as error:
            raise BadRequestError(str(error), "max_tokens") from None
        return sampling

    def _grammar(self, given: dict[str, Any]) -> Grammar | None:
        form = _object(given, "response_format")
        kind = form.get("type", "text")
        if kind not in ("text", "json_object", "json_schema"):
            raise BadRequestError(
                f"response_format.type={str(kind)[:40]!r}: give text, json_object or json_schema",
                "response_format",
            )
        schema = None
        if kind == "json_schema":
            named = form.get("json_schema")
            schema = named.get("schema") if isinstance(named, dict) else None
            if not isinstance(schema, dict):
                raise BadRequestError(
                    "response_format.json_schema.schema is not an object", "response_format"
                )
        try:
            return None if kind == "text" else self._grammars.of_schema(schema)
        except (ValueError, TypeError, RecursionError) as error:
            raise BadRequestError(f"response_format: {error}", "response_format") from None


def plain(value: Any) -> Any:
    """A value out of a table as JSON knows it: arrays as lists, numpy's numbers as Python's, NaN as None."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _unicode(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequestError(f"{name} holds half a surrogate pair, which is no text", name) from None
    return text


def _object(given: dict[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict):
        raise BadRequestError(f"{name} must be an object, not {type(value).__name__}", name)
    return value


def _tools(given: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools to offer; none for tool_choice=none."""
    tools, choice = given.get("tools", []), given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise BadRequestError("tool_choice: only auto and none can be kept here", "tool_choice")
    if not isinstance(tools, list):
        raise BadRequestError("tools must be a list", "tools")
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequestError("each tool must be {type: function, function: {name, parameters}}", "tools")
    return [] if choice == "none" else tools


def _stop(value: Any) -> tuple[str, ...]:
    """One stop text or a list of them; empty ones stop nothing."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequestError("stop must be a text or a list of texts", "stop")
    if len(texts) > MOST_STOPS:
        raise BadRequestError(f"stop has {len(texts)} texts, more than {MOST_STOPS}", "stop")
    return tuple(text for text in texts if text)


def _boolean(given: dict[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false, not {type(value).__name__}", name)
    return value


def _number(given: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        shown = repr(value)[:40] if isinstance(value, (int, float)) else type(value).__name__
        raise BadRequestError(f"{name}={shown} must be a number from {low:g} to {high:g}", name)
    return float(value)


def _integer(given: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = given.get(name, default)
    _number(given, name, default, low, high)
    if value != int(value):
        raise BadRequestError(f"{name}={value!r} must be a whole number", name)
    return int(value)
