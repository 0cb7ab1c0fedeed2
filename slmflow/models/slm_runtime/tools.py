"""Tool calls in a model's own words, turned into OpenAI's."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

FORMATS: dict[str, tuple[str, str]] = {
    "<tool_call>": ("<tool_call>", "</tool_call>"),  # Qwen, Hermes, SmolLM3
    "<|tool_call|>": ("<|tool_call|>", "<|/tool_call|>"),  # Phi-4-mini
    "[TOOL_CALLS]": ("[TOOL_CALLS]", ""),  # Mistral
    "<|python_tag|>": ("<|python_tag|>", ""),  # Llama 3.1, which may leave it out
    '"parameters"': ("", ""),  # Llama 3.2: bare JSON
}
"""What a template says of calls, and how one begins and ends; first found, first used."""


def knows_tools(template: str | None) -> bool:
    """Whether a chat template shows tools to the model."""
    return template is not None and re.search(r"\btools\b", template) is not None


def parse_calls(template: str, text: str, names: set[str]) -> tuple[str, list[dict[str, Any]]]:
    """The text without its calls, and the calls, of an answer of a model with that template.

    What does not parse, or names a tool that was not offered, stays text.
    """
    begin, end = next((form for marker, form in FORMATS.items() if marker in template), ("", ""))
    if not begin or begin not in text:
        whole = _calls(text, names)
        return ("", whole) if whole else (text, [])
    rest, calls = [], []
    head, *parts = text.split(begin)
    rest.append(head)
    for part in parts:
        inside, _, after = part.partition(end) if end else (part, "", "")
        found = _calls(inside, names)
        calls += found
        rest.append(after if found else begin + part)
    return "".join(rest).strip(), calls


def _calls(text: str, names: set[str]) -> list[dict[str, Any]]:
    """Calls from JSON: one object or a list of them; none when any is not a call."""
    try:
        value = json.loads(text.strip().rstrip(";"))
    except ValueError:
        return []
    calls = []
    for item in value if isinstance(value, list) else [value]:
        function = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(function, dict) or function.get("name") not in names:
            return []
        arguments = function.get("arguments", function.get("parameters", {}))
        calls.append(
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {
                    "name": function["name"],
                    "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
                },
            }
        )
    return calls
