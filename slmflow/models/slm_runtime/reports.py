"""What became of one row of a table: flat and without nulls, as typed columns want it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .errors import OverloadedError, TimedOutError

if TYPE_CHECKING:
    from .runtime import Runtime


def report_on(runtime: Runtime, body: Any) -> dict[str, str | int]:
    """The answer to a request given as JSON, with `error` empty; or empty, with `error` as one line.

    A defect of the engine is raised: it is not the row's.
    """
    try:
        request = runtime.read(*_read(body))
        whole = runtime.answer(request).whole()
    except (ValueError, RecursionError, OverloadedError, TimedOutError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        return _report("", "", 0, 0, said)
    assert isinstance(whole, dict)
    choice, usage = whole["choices"][0], whole["usage"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return _report(
        text or "", choice["finish_reason"] or "", usage["prompt_tokens"], usage["completion_tokens"], ""
    )


def _read(body: Any) -> tuple[dict[str, Any], Any]:
    given = json.loads(body) if isinstance(body, str) else None
    if not isinstance(given, dict):
        raise ValueError("requests=json wants each prompt to be a request as a JSON object")
    return given, None if "messages" in given else "completion"


def _report(text: str, reason: str, read: int, written: int, error: str) -> dict[str, str | int]:
    counts = {"prompt_tokens": read, "completion_tokens": written}
    return {"text": text, "finish_reason": reason, **counts, "error": error}
