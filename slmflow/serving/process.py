"""One worker process: started, found ready, asked, ended."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from slmflow.errors import SlmflowError
from slmflow.serving.errors import ApiError
from slmflow.serving.follow import Target
from slmflow.serving.worker_client import ask

LOG = logging.getLogger("slmflow.serving")
POLL_SECONDS = 0.05
DESCRIBE_SECONDS = 30.0
LINE_CHARACTERS = 500
"""What is kept of a line that a worker writes to standard error."""


class WorkerProcess:
    """A process that serves one version of a model, with the requests that it answers at the moment."""

    def __init__(self, target: Target, socket: Path) -> None:
        self.target = target
        self.socket = socket
        self.requests = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.model: dict[str, Any] = {}
        self.ready_at = 0.0
        self._tail: collections.deque[str] = collections.deque(maxlen=20)
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None
        self._ended: asyncio.Task[int] | None = None

    async def start(
        self,
        command: Sequence[str],
        options: Mapping[str, str],
        environment: Mapping[str, str],
        seconds: float,
    ) -> None:
        """Start the process and wait until it answers.

        Raises SlmflowError, with the process ended, when it ends before, or is not ready after `seconds`.
        """
        words = [f"model_uri={self.target.uri}", f"socket={self.socket}"]
        words += [f"{name}={value}" for name, value in options.items()]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *words,
                stdin=asyncio.subprocess.PIPE,  # open as long as the front lives: its end is the worker's
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for the front, which drains first
            )
        except OSError as error:
            raise SlmflowError(f"{command[0]}: cannot be started: {error.strerror}") from None
        self._stderr = asyncio.create_task(self._read_stderr())
        self._ended = asyncio.create_task(self._process.wait())
        try:
            async with asyncio.timeout(seconds):
                await self._wait_ready()
            self.model = await ask(self.socket, "describe", "model", DESCRIBE_SECONDS)
        except TimeoutError:
            await self.end(0)
            raise SlmflowError(f"{self.target.label}: not ready after {seconds:g} seconds") from None
        except ApiError as error:
            await self.end(0)
            raise SlmflowError(f"{self.target.label}: {error.message}; {self.last_words}") from None
        except BaseException:
            await self.end(0)
            raise
        self.ready_at = time.monotonic()

    async def _wait_ready(self) -> None:
        assert self._ended is not None
        while True:
            if self._ended.done():
                await self._drained_stderr()
                raise SlmflowError(f"{self.target.label}: {self.ending}; {self.last_words}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(self.socket)
                writer.transport.abort()
                return
            await asyncio.wait({self._ended}, timeout=POLL_SECONDS)

    @property
    def pid(self) -> int:
        """The process id, 0 before it is started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def ending(self) -> str:
        """How the process ended."""
        status = self._process.returncode if self._process else None
        if status is not None and status < 0:
            return f"the worker was ended by signal {-status}"
        return f"the worker ended with status {status}"

    @property
    def last_words(self) -> str:
        """The last line on standard error."""
        return self._tail[-1] if self._tail else "it said nothing on standard error"

    @property
    def resident_bytes(self) -> int:
        """Memory of the process in bytes; 0 when it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.alive else 0
        except psutil.Error:
            return 0

    def __enter__(self) -> WorkerProcess:
        """A request that this worker answers begins."""
        self.requests += 1
        self.idle.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.requests -= 1
        if not self.requests:
            self.idle.set()

    async def wait_ended(self) -> None:
        """Until the process is gone."""
        assert self._ended is not None
        await asyncio.wait({self._ended})

    async def end(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after `seconds`; returns when the process is gone."""
        if self._process is None or self._ended is None:
            return
        if seconds > 0 and self.alive:
            self._signal(kill=False)
            await asyncio.wait({self._ended}, timeout=seconds)
        self._signal(kill=True)
        await self.wait_ended()
        await self._drained_stderr()
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(OSError):
            os.unlink(self.socket)

    def kill(self) -> None:
        """SIGKILL, without waiting."""
        self._signal(kill=True)

    def _signal(self, *, kill: bool) -> None:
        if self._process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill() if kill else self._process.terminate()

    async def _drained_stderr(self) -> None:
        # A grandchild may hold the pipe open for longer than the worker lives.
        if self._stderr is not None:
            await asyncio.wait({self._stderr}, timeout=1)
            self._stderr.cancel()

    async def _read_stderr(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        rest = b""
        while piece := await self._process.stderr.read(1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[-LINE_CHARACTERS:]
            for line in lines:
                self._said(line)
        self._said(rest)

    def _said(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()[:LINE_CHARACTERS]
        if text:
            self._tail.append(text)
            LOG.info("worker %d: %s", self.pid, text)
