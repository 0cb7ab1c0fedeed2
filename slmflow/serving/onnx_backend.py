"""Our ONNX model in the worker: every request goes to the scheduler of the packaged runtime."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException

from slmflow.serving.backend import in_thread, invocation_rows, resident_bytes

if TYPE_CHECKING:
    from slmflow.serving.backend import Line

SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens")


def _trace_to(model_id: str) -> None:
    """Traces belong to the LoggedModel where the tracking server has it: a folder may be of another."""
    try:
        mlflow.set_active_model(model_id=model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        print(
            f"traces belong to no model: this tracking server has no LoggedModel {model_id}", file=sys.stderr
        )


class OnnxBackend:
    """`packaged` is the model's own class, from the code that it was logged with."""

    def __init__(self, packaged: Any, model: Any) -> None:
        self._runtime, self._tracing = packaged.runtime, packaged.tracing
        self._metadata = dict(model.metadata.metadata or {})
        self._record = packaged.record_trace
        self._traces = ThreadPoolExecutor(1, "traces")
        if self._tracing and model.model_id:
            _trace_to(model.model_id)

    async def answer(self, kind: str, body: Any) -> AsyncGenerator[Line]:
        """Chunks where the body asks for a stream, else one answer. Raises the runtime's own errors."""
        if kind == "invocations":
            rows, wrapped = invocation_rows(body)
            requests = [await in_thread(self._runtime.read, row) for row in rows]
            if any(request.stream for request in requests):
                raise ValueError("stream=true: /invocations answers in one piece; use /v1/chat/completions")
            waiting = [asyncio.ensure_future(self._whole(request)) for request in requests]
            try:
                done = await asyncio.gather(*waiting)
            finally:
                for one in waiting:
                    one.cancel()
            answers = [answer for answer, _ in done]
            timings = dict(done[0][1])
            timings |= {name: sum(times[name] for _, times in done) for name in SUMMED}
            yield {"answer": {"predictions": answers} if wrapped else answers, "timings": timings}
            return
        if not isinstance(body, dict):
            raise ValueError("the body must be a JSON object")
        # Beside the event loop: a long text takes long to encode.
        request = await in_thread(self._runtime.read, body, kind)
        if not request.stream:
            answer, timings = await self._whole(request)
            yield {"answer": answer, "timings": timings}
            return
        began = time.time_ns()
        heard = Pieces(streamed=True)
        job, answers = self._runtime.submit(request, heard.put)
        try:
            while (told := await heard.get()) is not None:
                for chunk in answers.chunks(told):
                    yield {"chunk": chunk}
            for chunk in answers.last_chunks():
                yield {"chunk": chunk}
            self._trace(request, answers, answers.whole(), began)
            yield {"done": True, "timings": answers.timings()}
        finally:
            job.cancel()

    def stats(self) -> Line:
        """Of the scheduler, and the memory of this process."""
        return {**self._runtime.scheduler.stats(), "resident_bytes": resident_bytes()}

    def describe(self) -> Line:
        """Name, engine, context and fingerprint."""
        return {
            "name": self._runtime.options.name,
            "engine": self._runtime.engine.name,
            "context_length": self._runtime.engine.description.context_length,
            "fingerprint": self._metadata.get("fingerprint"),
            "flavour": "onnx",
            "chat_template": self._runtime.tokenizer.chat_template is not None,
        }

    def close(self) -> None:
        """End the scheduler, and write the last traces."""
        self._runtime.close()
        self._traces.shutdown()
        if self._tracing:
            mlflow.flush_trace_async_logging(terminate=True)

    async def _whole(self, request: Any) -> tuple[Any, dict[str, Any]]:
        began = time.time_ns()
        heard = Pieces(streamed=False)
        job, answer = self._runtime.submit(request, heard.put)
        try:
            while (told := await heard.get()) is not None:
                answer.add(told)
        finally:
            job.cancel()
        whole = answer.whole()
        self._trace(request, answer, whole, began)
        return whole, answer.timings()

    def _trace(self, request: Any, answer: Any, whole: Any, began: int) -> None:
        """Leave a trace of a finished call, beside the event loop: a store may be slow, or away."""
        if self._tracing:
            self._traces.submit(self._record, request, answer, whole, began)


class Pieces:
    """What the scheduler's thread tells, for this event loop; not streamed, it is woken at the end only.

    Woken at each token, it would take a core from the engine.
    """

    def __init__(self, *, streamed: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._streamed = streamed
        self._held: list[Any] = []

    def put(self, told: Any) -> None:
        """From the scheduler's thread."""
        self._held.append(told)
        if self._streamed or hasattr(told, "error"):
            held, self._held = self._held, []
            self._loop.call_soon_threadsafe(self._fill, held)

    def _fill(self, held: list[Any]) -> None:
        for told in held:
            self._queue.put_nowait(told)

    async def get(self) -> Any | None:
        """The next piece; None at the end. Raises what ended the request."""
        told = await self._queue.get()
        if not hasattr(told, "error"):
            return told
        if told.error is not None:
            raise told.error
        return None
