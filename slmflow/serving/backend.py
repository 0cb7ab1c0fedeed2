"""The two packaged models behind one face for the worker: what answers a request, in which shape."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from slmflow.errors import first_line

Line = dict[str, Any]

ENDED: dict[str, int] = {"OverloadedError": 429, "TimedOutError": 504, "CancelledError": 499}
"""HTTP status by the name of what ended a request: its class lives in the packaged model's own code."""


class Backend(Protocol):
    """One loaded model."""

    def answer(self, kind: str, body: Any) -> AsyncGenerator[Line]:
        """Lines of the protocol; raises what ended the request, ValueError for a wrong one."""

    def stats(self) -> Line:
        """Numbers of now."""

    def describe(self) -> Line:
        """What the model is."""

    def close(self) -> None:
        """End its threads."""


def resident_bytes() -> int:
    """Memory of this process."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


def error_of(error: Exception) -> Line:
    """An error in OpenAI's shape, with its HTTP status."""
    status = ENDED.get(type(error).__name__, 400 if isinstance(error, ValueError) else 500)
    kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "server_error")
    message = (
        first_line(error) if status != 500 else f"{type(error).__name__} while answering: {first_line(error)}"
    )
    return {
        "status": status,
        "message": message,
        "type": kind,
        "param": getattr(error, "param", None),
        "code": None,
    }


def invocation_rows(body: Any) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a body of MLflow's `/invocations`, and whether its answer is wrapped in `predictions`.

    Raises ValueError for what MLflow's scoring server refuses too.
    """
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    if any(name in body for name in ("messages", "prompt")):
        return _spread(body), False
    forms = [name for name in ("dataframe_records", "dataframe_split", "inputs", "instances") if name in body]
    if len(forms) != 1:
        raise ValueError(
            "give `messages`, `prompt`, or one of dataframe_records, dataframe_split, inputs, instances"
        )
    value = body[forms[0]]
    if forms[0] == "dataframe_split":
        if not isinstance(value, dict) or not isinstance(value.get("data"), list):
            raise ValueError("dataframe_split must have `columns` and `data`")
        columns = value.get("columns", [])
        value = [dict(zip(columns, row, strict=False)) for row in value["data"] if isinstance(row, list)]
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{forms[0]} must be an object, or a list of objects, with `prompt` or `messages`")
    return [one for row in rows for one in _spread(row)], True


def _spread(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row whose prompt is a list of texts is several rows."""
    prompts = row.get("prompt")
    if isinstance(prompts, list) and prompts and all(isinstance(prompt, str) for prompt in prompts):
        return [{**row, "prompt": prompt} for prompt in prompts]
    return [row]


def size_of(answers: list[Any]) -> int:
    """Completion tokens of OpenAI objects."""
    usages = [answer["usage"] for answer in answers if isinstance(answer, dict) and "usage" in answer]
    return sum(usage["completion_tokens"] for usage in usages)


async def in_thread(work: Any, *arguments: Any) -> Any:
    """Run a blocking call beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def timed(started: float, prompt_tokens: int, completion_tokens: int) -> dict[str, int | float]:
    """Timings of an answer that came in one piece."""
    seconds = time.monotonic() - started
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cached_tokens": 0,
        "queued_seconds": 0.0,
        "first_token_seconds": seconds,
        "seconds": seconds,
    }
