"""The answer to one request: asked of a worker, sent whole or as events, given up when the client goes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from slmflow.serving.errors import ApiError
from slmflow.serving.metrics import Metrics
from slmflow.serving.pool import Pool
from slmflow.serving.worker_client import Exchange, exchange, parsed

EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
CHUNK = b'{"chunk":'
"""How the worker begins a line with a piece of a stream."""


class Answer:
    """An ASGI response that a worker makes, under the name that the front serves its model by."""

    def __init__(
        self, pool: Pool, metrics: Metrics, route: str, kind: str, body: str, *, name: str, stream: bool
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        self._route = route
        self._operation = f'{{"op":"answer","kind":"{kind}","name":{json.dumps(name)},"body":{body}}}'
        self._stream = stream
        self._mark = kind != "invocations"  # OpenAI's end of a stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer. Raises ApiError while no header went out."""
        work = asyncio.create_task(self._answer(scope, receive, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._pool.worker() as worker, exchange(worker.socket, self._operation) as lines:
            if self._stream:
                await self._send_events(lines, send)
                return
            said = parsed(await lines.next())
        if "answer" not in said:
            raise ApiError(500, "the worker sent a line without an answer")
        try:
            response = JSONResponse(said["answer"])
        except ValueError:
            raise ApiError(500, "the worker's answer has values that JSON does not have") from None
        self._metrics.observe(said.get("timings"))
        await response(scope, receive, send)

    async def _send_events(self, lines: Exchange, send: Send) -> None:
        line = await lines.next()
        said = _chunk_or_end(line)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        last = time.perf_counter()
        try:
            while said is None:
                await send(_event(line[len(CHUNK) : -1]))
                line = await lines.next()
                now = time.perf_counter()
                said = _chunk_or_end(line)
                if said is None:
                    self._metrics.gap.observe(now - last)
                last = now
        except ApiError as error:
            self._metrics.errors.labels(self._route, str(error.status)).inc()
            await send(_event(json.dumps(error.body).encode()))
        else:
            self._metrics.observe(said.get("timings"))
            if self._mark:
                await send(_event(b"[DONE]"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _chunk_or_end(line: bytes) -> dict[str, Any] | None:
    """None for a chunk. It is passed on as it is: parsing each token would take a core from the engine."""
    if line.startswith(CHUNK) and line.endswith(b"}"):
        return None
    said = parsed(line)
    if "done" not in said:
        raise ApiError(500, "the worker sent a line that is neither a chunk nor the end")
    return said


def _event(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}


async def _gone(receive: Receive) -> None:
    """Until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
