"""The messages of a chat, as the template wants them."""

from __future__ import annotations

import json
from typing import Any

from .errors import BadRequestError

ROLES = ("system", "developer", "user", "assistant", "tool")


def messages_of(messages: Any) -> list[dict[str, Any]]:
    """Messages with text content, `developer` as `system`; raises BadRequestError naming what is wrong."""
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a list of at least one message", "messages")
    read = []
    for number, message in enumerate(messages):
        try:
            read.append(_message(message))
        except ValueError as error:
            raise BadRequestError(f"messages[{number}]: {error}", "messages") from None
    return read


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError("must be an object with `role` and `content`")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}")
    read: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = message.get("tool_calls")
    if calls is not None:
        read["tool_calls"] = [_call(call) for call in _list(calls, "tool_calls")]
    content = message.get("content")
    if content is None and calls:
        content = ""
    read["content"] = _text(content)
    for name in ("name", "tool_call_id"):
        if message.get(name) is not None:
            if not isinstance(message[name], str):
                raise ValueError(f"{name} must be text")
            read[name] = message[name]
    return read


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError("content parts other than {type: text, text: …} are not supported")
        content = "".join(part for part in parts if part is not None)
    if not isinstance(content, str):
        raise ValueError("content must be text, or a list of text parts")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError("content holds half a surrogate pair, which is no text") from None
    return content


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value


def _call(call: Any) -> dict[str, Any]:
    """A call with its arguments as an object, which is what templates print."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("each of tool_calls must be {id, type: function, function: {name, arguments}}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise ValueError(f"the arguments of {function['name'][:40]!r} are not JSON") from None
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}
