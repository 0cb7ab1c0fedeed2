"""The workers of a front: one serves, a dead one is replaced, another version takes over without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmflow.errors import SlmflowError, one_line
from slmflow.machine import available_memory
from slmflow.serving.errors import ApiError
from slmflow.serving.follow import Target
from slmflow.serving.metrics import Metrics
from slmflow.serving.process import WorkerProcess
from slmflow.serving.worker_client import ask

LOG = logging.getLogger("slmflow.serving")
COMMAND = (sys.executable, "-m", "slmflow.serving.worker")
FIRST_DELAY, LAST_DELAY = 0.5, 30.0
"""Seconds before a worker is started again: doubled each time, unless one lived for LIVED_SECONDS."""
LIVED_SECONDS = 10.0
STATS_SECONDS = 0.5
END_SECONDS = 10.0
"""What an idle worker gets between SIGTERM and SIGKILL."""
ROOM = 1.2
"""Memory that a second worker needs, as a multiple of what the first has."""


@dataclass(frozen=True)
class PoolSettings:
    """How workers are started, and how long things may take."""

    command: Sequence[str] = COMMAND
    options: Mapping[str, str] = field(default_factory=dict)
    """Further `name=value` words of the worker's command line."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    load_seconds: float = 600.0
    hold_seconds: float = 60.0
    """How long a request waits for the new version where there is no memory for both."""
    memory: Callable[[], int] = available_memory
    """Bytes that are free."""


class Pool:
    """The worker that serves, the one that will, and those that finish their requests."""

    def __init__(self, target: Target, settings: PoolSettings, metrics: Metrics) -> None:
        self.metrics = metrics
        self.current: WorkerProcess | None = None
        self.model: dict[str, Any] = {}
        """What the last ready worker says of its model; empty before."""
        self.target = target
        """The version that serves, or is to."""
        self.problem = ""
        """Why the last start failed, in one line; empty when it did not."""
        self.on_ready: Callable[[WorkerProcess], None] = lambda worker: None
        self._settings = settings
        self._answered = target
        self._moved = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._delay = FIRST_DELAY
        self._numbers = itertools.count(1)
        self._workers: set[WorkerProcess] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._folder = _private_folder()

    @property
    def state(self) -> str:
        """`ok` while a worker is ready, else `loading` or `failed`."""
        if self.current is not None and self.current.alive:
            return "ok"
        return "failed" if self.problem else "loading"

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[WorkerProcess]:
        """The worker for a new request; it is not ended within the block. Raises ApiError 503."""
        try:
            async with asyncio.timeout(self._settings.hold_seconds):
                await self._open.wait()
        except TimeoutError:
            message = "another version of the model is about to be loaded; ask again"
            raise ApiError(503, message, code="model_loading") from None
        worker = self.current
        if worker is None or not worker.alive:
            why = "could not be loaded; /health says why" if self.problem else "is loading; ask again"
            raise ApiError(503, f"the model {why}", code=f"model_{self.state}")
        with worker:
            yield worker

    def aim(self, target: Target) -> None:
        """Serve this version from now on; one that could not be loaded is not tried before the next move."""
        if target == self._answered:
            return
        self._answered = target
        if target != self.target:
            self.target = target
            self._moved.set()

    async def stats(self) -> None:
        """Bring the worker's numbers into the metrics; the last ones stay where it does not answer."""
        worker = self.current
        self.metrics.ready.set(self.state == "ok")
        if worker is not None and worker.alive:
            with contextlib.suppress(ApiError):
                self.metrics.take_stats(await ask(worker.socket, "stats", "stats", STATS_SECONDS))

    async def run(self) -> None:
        """Keep a worker of the wanted version ready, until cancelled."""
        while True:
            worker = self.current
            if worker is None:
                self._serve(await self._revive())
                continue
            ended = asyncio.create_task(worker.wait_ended())
            moved = asyncio.create_task(self._moved.wait())
            try:
                await asyncio.wait({ended, moved}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
                moved.cancel()
            if not worker.alive:
                await self._bury(worker)
            elif self.target != worker.target:
                await self._swap(worker, self.target)
            else:
                self._moved.clear()

    async def _bury(self, worker: WorkerProcess) -> None:
        self.current = None
        self.metrics.restarts.inc()
        await worker.end(0)
        self._workers.discard(worker)
        LOG.error("%s: %s; %s; starting another", worker.target.label, worker.ending, worker.last_words)
        if time.monotonic() - worker.ready_at < LIVED_SECONDS:
            await self._back_off()
        else:
            self._delay = FIRST_DELAY

    async def _back_off(self) -> None:
        delay, self._delay = self._delay, min(self._delay * 2, LAST_DELAY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._moved.wait()

    async def _revive(self) -> WorkerProcess:
        """A ready worker of the wanted version, however often it takes."""
        while True:
            self._moved.clear()
            try:
                return await self._start(self.target)
            except SlmflowError as error:
                self.problem = one_line(error)
                LOG.error("%s; again in %.1f seconds", self.problem, self._delay)
            self._open.set()
            await self._back_off()

    async def _start(self, target: Target) -> WorkerProcess:
        worker = WorkerProcess(target, self._folder / f"{next(self._numbers)}.sock")
        self._workers.add(worker)
        start = time.monotonic()
        LOG.info("%s: loading", target.label)
        settings = self._settings
        try:
            await worker.start(
                settings.command, settings.options, settings.environment, settings.load_seconds
            )
        except SlmflowError:
            self.metrics.start_failures.inc()
            self._workers.discard(worker)
            raise
        LOG.info("%s: ready after %.1f seconds", target.label, time.monotonic() - start)
        return worker

    def _serve(self, worker: WorkerProcess) -> None:
        self.current = worker
        self.model = worker.model
        self.problem = ""
        self._open.set()
        self.on_ready(worker)

    async def _swap(self, old: WorkerProcess, target: Target) -> None:
        """Let another version take over; where it cannot be loaded, the old one goes on."""
        self._moved.clear()
        beside = self._settings.memory() >= ROOM * old.resident_bytes
        if not beside:
            LOG.warning("%s: no memory for two workers; requests wait for the new one", target.label)
            self._open.clear()
            ended = asyncio.create_task(old.wait_ended())
            idle = asyncio.create_task(old.idle.wait())
            await asyncio.wait({ended, idle}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            idle.cancel()
            self.current = None
            await self._end(old)
        try:
            new = await self._start(target)
        except SlmflowError as error:
            self.metrics.swap_failures.inc()
            LOG.error("%s; %s goes on", one_line(error), old.target.label)
            if self.target == target:
                self.target = old.target
            return
        self._serve(new)
        self.metrics.swaps.inc()
        LOG.info("%s serves instead of %s", target.label, old.target.label)
        if beside:
            task = asyncio.create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, worker: WorkerProcess) -> None:
        await worker.idle.wait()
        await self._end(worker)

    async def _end(self, worker: WorkerProcess) -> None:
        await worker.end(END_SECONDS)
        self._workers.discard(worker)

    async def stop(self, keeper: asyncio.Task[None], *, kill: bool) -> None:
        """End every worker, with `kill` also those that still answer; `keeper` is the task of `run`."""
        tasks = [keeper, *self._retiring]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if kill:
            for worker in self._workers:
                worker.kill()
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers)))
        self.current = None
        self._open.set()
        shutil.rmtree(self._folder, ignore_errors=True)


def _private_folder() -> Path:
    """A folder for sockets that only this user may enter, with a path that fits a socket's address."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="slmflow-", dir=usual if len(usual.encode()) < 70 else "/tmp"))  # noqa: S108
