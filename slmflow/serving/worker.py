"""The process that holds one model version: it answers operations on a unix socket, a JSON object a line.

    python -m slmflow.serving.worker model_uri=models:/smollm2-135m-onnx/1 socket=/tmp/slm.sock engine=

The front (`python -m slmflow.serving`) starts it; nobody else needs to. The socket appears when the model is
ready. SIGTERM lets running requests finish; the end of standard input means that the front is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from typing import Any

from slmflow.errors import SlmflowError
from slmflow.serving.backend import Backend, error_of
from slmflow.serving.loading import load_backend

LINE_BYTES = 64 << 20
"""A line of the protocol, at most: a request's body with its prompt."""


class Worker:
    """Answers connections until told to stop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, socket: str) -> None:
        """Listen until SIGTERM or the end of standard input, then let running requests finish."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        threading.Thread(target=self._watch_parent, args=(loop,), daemon=True).start()
        server = await asyncio.start_unix_server(self._connected, socket, limit=LINE_BYTES)
        await self._stopping.wait()
        server.close()
        if self._running:
            await asyncio.wait(self._running)
        self._backend.close()

    def _watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)  # nobody is left to hear an answer

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            line = await reader.readline()
            if line:
                await self._operate(json.loads(line), reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the other side is gone
        finally:
            self._running.discard(task)
            writer.close()

    async def _operate(
        self, operation: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        name = operation.get("op")
        if name == "stats":
            await _write(writer, {"stats": self._backend.stats()})
        elif name == "describe":
            await _write(writer, {"model": self._backend.describe()})
        elif name == "answer":
            await self._answer(operation, reader, writer)
        else:
            await _write(writer, {"error": error_of(SlmflowError(f"op={name!r} is unknown"))})

    async def _answer(
        self, operation: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Write what the backend tells. When the other side goes away, this task, and the request, ends."""
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.ensure_future(reader.read(1))
        gone.add_done_callback(lambda read: read.cancelled() or task.cancel())
        try:
            told = self._backend.answer(operation["kind"], operation["body"])
            async with contextlib.aclosing(told):
                async for line in told:
                    _rename(line, operation)
                    await _write(writer, line)
        except ConnectionError:
            raise
        except Exception as error:
            await _write(writer, {"error": error_of(error)})
        finally:
            gone.cancel()


def _rename(line: dict[str, Any], operation: dict[str, Any]) -> None:
    """Clients compare `model` with what /v1/models lists; /invocations keeps the model's own."""
    said = line.get("chunk", line.get("answer"))
    if operation["kind"] != "invocations" and operation.get("name") and isinstance(said, dict):
        said["model"] = operation["name"]


async def _write(writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
    writer.write(
        json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    )
    await writer.drain()


def main(arguments: list[str]) -> int:
    """Load the model and serve it; the last line of standard error says why it could not."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if not given.get("model_uri") or not given.get("socket"):
        print("slmflow serving worker: give model_uri=… and socket=…", file=sys.stderr)
        return 2
    # MLflow prints; what the front reads is standard error.
    sys.stdout = sys.stderr
    try:
        backend = load_backend(given["model_uri"], given.get("engine", ""))
    except Exception as error:
        from slmflow.errors import first_line

        print(f"slmflow serving worker: {given['model_uri']}: {first_line(error)}", file=sys.stderr)
        return 1
    asyncio.run(Worker(backend).serve(given["socket"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
