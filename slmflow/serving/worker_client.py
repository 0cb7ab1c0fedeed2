"""One operation of a worker: a connection to its unix socket that carries JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from slmflow.serving.errors import ApiError, from_worker, worker_ended

LINE_BYTES = 64 << 20
"""The longest line that either side sends, in bytes."""
_PIECE = 1 << 16


class Exchange:
    """The answer to one operation, line by line."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        # Not readline(): its limit would also be how much is buffered for a client that reads slowly.
        self._reader = reader
        self._lines: list[bytes] = []
        self._rest: list[bytes] = []

    async def next(self) -> bytes:
        """The next line. Raises ApiError 503 if the worker went away, 500 for an endless line."""
        while not self._lines:
            try:
                piece = await self._reader.read(_PIECE)
            except OSError:
                piece = b""
            if not piece:
                raise worker_ended()
            *whole, rest = piece.split(b"\n")
            if whole:
                whole[0] = b"".join([*self._rest, whole[0]])
                self._rest = []
                self._lines = whole[::-1]
            self._rest.append(rest)
            if sum(map(len, self._rest)) > LINE_BYTES:
                raise ApiError(500, f"the worker sent a line of more than {LINE_BYTES} bytes")
        return self._lines.pop()


def parsed(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises ApiError: what the worker says, 500 for no JSON."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ApiError(500, "the worker sent a line that is not a JSON object")
    if "error" in said:
        raise from_worker(said["error"])
    return said


@contextlib.asynccontextmanager
async def exchange(socket: Path, operation: str) -> AsyncIterator[Exchange]:
    """Send an operation, JSON without a line's end; leaving the block closes, which cancels it.

    Raises ApiError: 503 when the worker does not take the connection, 413 for an operation over 64 MiB.
    """
    line = operation.encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise ApiError(413, f"the request is larger than {LINE_BYTES} bytes: send less")
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        raise worker_ended() from None
    try:
        # A worker may answer with an error, and close, before it has read a long line.
        with contextlib.suppress(OSError):
            writer.write(line)
            await writer.drain()
        yield Exchange(reader)
    finally:
        writer.transport.abort()


async def ask(socket: Path, operation: str, key: str, seconds: float) -> dict[str, Any]:
    """The object under `key` of a one-line answer. Raises ApiError, 504 after `seconds`."""
    try:
        async with asyncio.timeout(seconds), exchange(socket, json.dumps({"op": operation})) as lines:
            said = parsed(await lines.next()).get(key)
    except TimeoutError:
        raise ApiError(504, f"the worker did not answer {operation!r} within {seconds:g} seconds") from None
    if not isinstance(said, dict):
        raise ApiError(500, f"the worker answered {operation!r} without {key!r}")
    return said
