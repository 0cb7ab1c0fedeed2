"""Requests in, answers out: the shapes of OpenAI's chat API, and the plain prompt beside them."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .engine import GenerateEngine, Sampling
from .tokenizer import TextTokenizer


@dataclass(frozen=True)
class Request:
    """One checked request, its prompt as token ids."""

    ids: list[int]
    is_chat: bool
    sampling: Sampling
    stop: list[str] = field(default_factory=list)
    n: int = 1


def read(
    row: dict[str, Any], defaults: Sampling, engine: GenerateEngine, tokenizer: TextTokenizer
) -> Request:
    """Check one row and encode it. Raises ValueError naming the field, its value and what is allowed.

    A default of max_tokens gives way to the room that the context has left; one that was asked for is
    refused when it does not fit.
    """
    given = {name: value for name, value in row.items() if not _absent(value)}
    prompt: Any = given.get("prompt")
    messages: Any = given.get("messages")
    if (prompt is None) == (messages is None):
        raise ValueError("give either `prompt` (text) or `messages` (a chat), and not both")
    if given.get("stream"):
        raise ValueError("stream=true: predict answers in one piece; leave stream out")
    asked = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    sampling = Sampling(
        max_tokens=_integer(given, asked, defaults.max_tokens, 1, 2**31 - 1),
        temperature=_number(given, "temperature", defaults.temperature, 0.0, 2.0),
        top_p=_number(given, "top_p", defaults.top_p, 0.0, 1.0),
        seed=_integer(given, "seed", 0, -(2**63), 2**63 - 1) if "seed" in given else None,
    )
    if prompt is not None:
        if not isinstance(prompt, str):
            raise ValueError(f"prompt must be text, not {type(prompt).__name__}")
        ids = tokenizer.encode(prompt)
    else:
        if isinstance(messages, (str, dict)) or not len(messages):
            raise ValueError("messages must be a list of at least one message")
        ids = tokenizer.encode_chat([_message(message) for message in messages])
    room = engine.context_length - len(ids)
    if asked not in given and 0 < room < sampling.max_tokens:
        sampling = replace(sampling, max_tokens=room)
    engine.check_length(ids, sampling.max_tokens)
    return Request(ids, prompt is None, sampling, _stop(given.get("stop")), _integer(given, "n", 1, 1, 16))


def answer(
    request: Request, engine: GenerateEngine, tokenizer: TextTokenizer, model: str
) -> str | dict[str, Any]:
    """Text for a prompt; an OpenAI `chat.completion` object for messages."""
    if not request.is_chat:
        return _complete(engine, tokenizer, request, 0)[0]
    choices, completion_tokens = [], 0
    for index in range(request.n):
        text, tokens, reason = _complete(engine, tokenizer, request, index)
        completion_tokens += tokens
        message = {"role": "assistant", "content": text}
        choices.append({"index": index, "message": message, "finish_reason": reason})
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": len(request.ids),
            "completion_tokens": completion_tokens,
            "total_tokens": len(request.ids) + completion_tokens,
        },
    }


def _complete(
    engine: GenerateEngine, tokenizer: TextTokenizer, request: Request, index: int
) -> tuple[str, int, str]:
    """Text, number of tokens, and why it ended: `stop` at a stop string or end of text, else `length`."""
    sampling = request.sampling
    if sampling.seed is not None:  # n answers with one seed would be n times the same
        sampling = replace(sampling, seed=sampling.seed + index)
    tokens: list[int] = []
    for token in engine.generate(request.ids, sampling):
        tokens.append(token)
        if request.stop:
            text = tokenizer.decode(tokens)
            cut = min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=-1)
            if cut >= 0:
                return text[:cut], len(tokens), "stop"
    reason = "length" if len(tokens) == sampling.max_tokens else "stop"
    return tokenizer.decode(tokens), len(tokens), reason


def _absent(value: Any) -> bool:
    """Whether a cell of a table was left out: None, or the NaN that pandas puts there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _stop(value: Any) -> list[str]:
    """One stop text or a list of them; empty ones stop nothing."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if isinstance(texts, (int, float, dict)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"stop={value!r} must be a text or a list of texts")
    return [text for text in texts if text]


def _message(message: Any) -> dict[str, Any]:
    """A message with its content as text; only text parts can be read."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValueError("each message must be an object with `role` and `content`")
    content = message.get("content")
    if isinstance(content, (list, np.ndarray)):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise ValueError("content parts other than {type: text, text: …} are not supported")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise ValueError("content of a message must be text, or a list of text parts")
    return {**{k: v for k, v in message.items() if not _absent(v)}, "content": content}


def _number(given: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be a number from {low:g} to {high:g}")
    return float(value)


def _integer(given: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = _number(given, name, default, low, high)
    if value != int(value):
        raise ValueError(f"{name}={given[name]!r} must be a whole number")
    return int(given.get(name, default))
