"""The transformers pipeline in the worker: MLflow's own chat flavour, behind an adapter.

MLflow's flavour answers a list, refuses `stream: false`, `n: 1`, `tools` and penalties of its own signature
(mlflow#14429), drops `seed`, and ignores `temperature` unless told to sample. The adapter passes on what it
understands, refuses what it would silently drop, and answers in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from slmflow.serving.backend import as_json, in_thread, invocation_rows, resident_bytes, size_of, timed

if TYPE_CHECKING:
    from slmflow.serving.backend import Line

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (True, False),
    "n": (1,),
    "temperature": (0, 1),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False, 0),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
"""Values that change nothing in a greedy answer, and so may be dropped."""
PASSED = ("messages", "max_tokens", "stop")
DROPPED = ("model", "user", "stream_options", "seed", "metadata", "store")


class PipelineBackend:
    """One request at a time: the flavour's answers come whole."""

    def __init__(self, uri: str) -> None:
        import mlflow

        self._model: Any = mlflow.pyfunc.load_model(uri)
        self._metadata = dict(self._model.metadata.metadata or {})
        self._lock = asyncio.Lock()
        self._running = self._tokens = 0
        flavour = self._model.metadata.flavors["transformers"]
        self._name = str(flavour.get("source_model_name", "pipeline")).rsplit("/", 1)[-1]

    async def answer(self, kind: str, body: Any) -> AsyncGenerator[Line]:
        """One answer; a stream of one chunk where a stream is asked for."""
        started = time.monotonic()
        if kind == "completion":
            raise ValueError("the pipeline answers chats: use /v1/chat/completions, or serve the ONNX model")
        rows, wrapped = invocation_rows(body) if kind == "invocations" else ([body], False)
        asked = [self._passed(row) for row in rows]
        self._running += 1
        try:
            async with self._lock:
                answers = [await in_thread(self._predict, row) for row in asked]
        finally:
            self._running -= 1
        tokens = size_of(answers)
        self._tokens += tokens
        timings = timed(started, sum(answer["usage"]["prompt_tokens"] for answer in answers), tokens)
        if kind == "invocations":
            yield {"answer": {"predictions": answers} if wrapped else answers, "timings": timings}
        elif body.get("stream"):
            for chunk in _chunks(answers[0]):
                yield {"chunk": chunk}
            yield {"done": True, "timings": timings}
        else:
            yield {"answer": answers[0], "timings": timings}

    def stats(self) -> Line:
        """Requests that run or wait."""
        return {
            "engine": "transformers",
            "running": min(self._running, 1),
            "waiting": max(self._running - 1, 0),
            "tokens_total": self._tokens,
            "resident_bytes": resident_bytes(),
        }

    def describe(self) -> Line:
        """Name and fingerprint."""
        return {
            "name": self._name,
            "engine": "transformers",
            "fingerprint": self._metadata.get("fingerprint"),
            "flavour": "pipeline",
            "chat_template": True,
        }

    def close(self) -> None:
        """Nothing runs by itself."""

    def _predict(self, row: dict[str, Any]) -> Any:
        answer = self._model.predict(row)
        answer = as_json(answer[0] if isinstance(answer, list) else answer)
        answer["model"] = self._name
        answer["id"] = answer.get("id") or f"chatcmpl-{uuid.uuid4().hex}"
        return answer

    def _passed(self, row: Any) -> dict[str, Any]:
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
            raise ValueError("messages must be a list of at least one message")
        for number, message in enumerate(row["messages"]):
            if not isinstance(message, dict) or not isinstance(message.get("content"), str):
                raise ValueError(f"messages[{number}]: content must be text")
        passed = {name: row[name] for name in PASSED if row.get(name) is not None}
        if "max_completion_tokens" in row:
            passed["max_tokens"] = row["max_completion_tokens"]
        if isinstance(passed.get("stop"), str):
            passed["stop"] = [passed["stop"]]
        for name, value in row.items():
            known = name in PASSED or name in DROPPED or name == "max_completion_tokens"
            if not known and value is not None and value not in NEUTRAL.get(name, ()):
                raise ValueError(f"{name}: the pipeline flavour cannot do that; serve the ONNX model")
        return passed


def _chunks(answer: Line) -> list[Line]:
    """A whole answer as the two chunks of a stream."""
    head = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = answer["choices"][0]
    said = {"index": 0, "delta": choice["message"], "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    return [{**head, "choices": [said]}, {**head, "choices": [last]}]
