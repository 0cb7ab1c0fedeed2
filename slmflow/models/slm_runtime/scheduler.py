"""One thread that owns the engine: requests join and leave a running batch.

Between two steps of decoding, prompts are read in chunks for about as long as a time budget, so that a long
prompt slows the others down and does not stop them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from .engine import Engine
from .errors import BadRequestError, OverloadedError
from .job import Job, Sequence
from .pace import CHUNK, SMALL_CHUNK, Pace
from .prefixes import Prefixes


@dataclass(frozen=True)
class Limits:
    """What a scheduler admits."""

    rows: int = 16
    """Sequences that decode together, at most."""
    waiting: int = 64
    """Requests in the queue, at most; the next is refused."""
    kv_bytes: int = 4 << 30
    """Keys and values, reserved for prompt plus max_tokens of every running sequence."""
    prefixes: int = 8
    """Ended chats whose keys and values are kept for the next turn, in a quarter of kv_bytes more."""


class Scheduler:
    """Runs jobs until `close`; every public method may be called from any thread."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self._prefixes = Prefixes(engine, limits.prefixes, limits.kv_bytes // 4)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._calls: deque[Any] = deque()
        self._reading: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._reserved = 0
        self._pace = Pace()
        self._closing = False
        self._tokens = self._cached = 0
        self._thread = threading.Thread(target=self._work, name="slm-scheduler", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises OverloadedError when the queue is full, BadRequestError when it could never run.
        """
        needed = self._bytes(job)
        if needed > self.limits.kv_bytes:
            raise BadRequestError(
                f"the request needs {needed / 1e6:.0f} MB of keys and values, more than the "
                f"{self.limits.kv_bytes / 1e6:.0f} MB allowed: lower max_tokens or n, shorten the prompt, or "
                "raise kv_megabytes",
                "max_tokens",
            )
        with self._changed:
            if self._closing:
                raise OverloadedError("the model is being unloaded; ask again")
            if len(self._waiting) >= self.limits.waiting:
                raise OverloadedError(f"{len(self._waiting)} requests wait already; ask again in a moment")
            self._waiting.append(job)
            self._changed.notify()

    def call(self, work: Any) -> Any:
        """Run a function of the engine between two steps, and return what it returns."""
        done: dict[str, Any] = {}
        finished = threading.Event()

        def carried() -> None:
            try:
                done["value"] = work(self.engine)
            except BaseException as error:
                done["error"] = error
            finished.set()

        with self._changed:
            if self._closing:
                raise OverloadedError("the model is being unloaded; ask again")
            self._calls.append(carried)
            self._changed.notify()
        finished.wait()
        if "error" in done:
            raise done["error"]
        return done["value"]

    def stats(self) -> dict[str, int | float | str]:
        """What runs and waits now, memory of keys and values, and totals since the start."""
        with self._changed:
            return {
                "engine": self.engine.name,
                "running": len(self._decoding) + len(self._reading),
                "decoding": len(self._decoding),
                "waiting": len(self._waiting),
                "kv_bytes": self.engine.kv_bytes(),
                "kv_reserved_bytes": self._reserved,
                "kv_limit_bytes": self.limits.kv_bytes,
                "prefixes": len(self._prefixes),
                "tokens_total": self._tokens,
                "cached_tokens_total": self._cached,
                "step_seconds": self._pace.step,
            }

    def close(self) -> None:
        """End the thread; what runs is told that it was cancelled."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        # The last reference to a model may go in the scheduler's own thread.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _bytes(self, job: Job) -> int:
        return job.n * self._row_bytes(job)

    def _row_bytes(self, job: Job) -> int:
        """What one answer of a job may come to hold."""
        of = self.engine.description
        return job.length * of.position_bytes + of.row_bytes

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._waiting or self._calls or self._reading or self._decoding):
                    self._changed.wait()
                if self._closing:
                    break
                calls, self._calls = self._calls, deque()
                self._admit()
            for call in calls:
                call()
            try:
                self._read_prompts()
                self._decode()
            except Exception as error:  # the runtime raises bare exceptions; nobody may wait for ever
                self._fail(error)
        self._fail(OverloadedError("the model is being unloaded; ask again"))

    def _admit(self) -> None:
        """Start what is waiting, in order, as far as rows and memory allow."""
        self._waiting = deque(job for job in self._waiting if not job.is_over())
        while self._waiting:
            job = self._waiting[0]
            running = len(self._reading) + len(self._decoding)
            fits = self._reserved + self._bytes(job) <= self.limits.kv_bytes
            if running and not (fits and running + job.n <= self.limits.rows):
                return
            self._waiting.popleft()
            self._reserved += self._bytes(job)
            job.started = time.monotonic()
            self._reading += job.sequences

    def _read_prompts(self) -> None:
        """Chunks of prompts, first come first served, until the budget is used; at least one."""
        began, first = time.monotonic(), True
        while self._reading:
            sequence = self._reading[0]
            if sequence.job.is_over():
                self._reading.remove(sequence)
                self._end(sequence, keep=False)
                continue
            if sequence.cache is None:
                self._open(sequence)
            size = self._chunk(sequence, self._pace.budget - (time.monotonic() - began))
            if not (size or first):
                return
            self._read_chunk(sequence, size or SMALL_CHUNK)
            first = False
            if not self._decoding:
                return

    def _chunk(self, sequence: Sequence, seconds: float) -> int:
        """Tokens to read at once: as many as the time is good for while others decode."""
        if sequence.job.deterministic:
            return CHUNK if seconds > 0 else 0
        if not self._decoding:
            return CHUNK
        return self._pace.chunk(seconds, len(sequence.job.ids) - sequence.cache.tokens)

    def _read_chunk(self, sequence: Sequence, size: int) -> None:
        job, cache = sequence.job, sequence.cache
        began = time.monotonic()
        part = job.ids[cache.tokens : cache.tokens + size]
        logits = self.engine.prefill(cache, part)
        self._pace.read(len(part), time.monotonic() - began)
        if cache.tokens < len(job.ids):
            return
        # The other answers to this prompt need not read it again.
        followers = [other for other in self._reading if other.job is job and other is not sequence]
        for other in followers if self.engine.shares else []:
            other.cache = self.engine.reuse(cache, len(job.ids), job.length)
            self._reading.remove(other)
            self._take(other, logits)
        self._reading.remove(sequence)
        self._take(sequence, logits)

    def _open(self, sequence: Sequence) -> None:
        """A cache, with as much of the prompt as an earlier request has read already."""
        job = sequence.job
        # The last token is always read anew, for its logits; whole small chunks keep the borders.
        if not job.deterministic:
            sequence.cache = self._prefixes.take(job.ids, job.length, SMALL_CHUNK)
        if sequence.cache is None:
            sequence.cache = self.engine.open(job.length)
        job.cached_tokens += sequence.cache.tokens
        self._cached += sequence.cache.tokens

    def _decode(self) -> None:
        """One token for every sequence that is past its prompt."""
        for sequence in [one for one in self._decoding if one.job.is_over()]:
            self._decoding.remove(sequence)
            self._end(sequence, keep=False)
        together = [one for one in self._decoding if not one.job.deterministic]
        groups = [together] if together else []
        groups += [[one] for one in self._decoding if one.job.deterministic]
        if not groups:
            return
        began = time.monotonic()
        for group in groups:
            logits = self.engine.decode([one.cache for one in group], [one.ids[-1] for one in group])
            for one, row in zip(group, logits, strict=True):
                self._decoding.remove(one)
                self._take(one, row)
        self._pace.stepped(time.monotonic() - began)

    def _take(self, sequence: Sequence, logits: Any) -> None:
        """Draw a token; go on decoding, or end."""
        self._tokens += 1
        try:
            ended = sequence.take(logits, self.engine.description.eos_ids)
        except Exception as error:  # the request's own grammar or consumer: the others go on
            sequence.job.fail(error)
            ended = True
        if ended:
            self._end(sequence, keep=not sequence.job.deterministic and not sequence.job.failed)
        else:
            self._decoding.append(sequence)

    def _end(self, sequence: Sequence, *, keep: bool) -> None:
        cache, sequence.cache = sequence.cache, None
        self._reserved -= self._row_bytes(sequence.job)
        if cache is None:
            return
        if keep:
            self._prefixes.keep((sequence.job.ids + sequence.ids)[: cache.tokens], cache)
        else:
            self.engine.close(cache)

    def _fail(self, error: Exception) -> None:
        """End everything that runs, and on closing everything that waits."""
        with self._changed:
            running, self._reading, self._decoding = [*self._reading, *self._decoding], [], []
            waiting = list(self._waiting) if self._closing else []
            calls = list(self._calls) if self._closing else []
            if self._closing:
                self._waiting.clear()
        for sequence in running:
            sequence.job.fail(error)
            self._end(sequence, keep=False)
        for job in waiting:
            job.fail(error)
        for call in calls:
            call()
