"""One loaded model folder that answers requests: reader, engine and scheduler together."""

from __future__ import annotations

import logging
import queue
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .answer import Answer
from .grammar import Grammars
from .job import End, Job, Piece
from .open_engine import open_engine
from .request import Kind, Reader, Request
from .sampling import Sampler, Sampling
from .scheduler import Limits, Scheduler
from .text import TextStream
from .tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

Told = str | dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a model is run; a request may set its own sampling."""

    name: str
    engine: str = "generate"
    threads: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    deterministic: bool = False
    timeout: float = 0.0
    """Seconds from asking to the last token; 0: no limit."""
    limits: Limits = field(default_factory=Limits)


class Runtime:
    """May be asked from any thread; rows share the weights and nothing else."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.options = options
        self.tokenizer = TextTokenizer(folder)
        self.engine = open_engine(folder, options.engine, options.threads)
        logger.info("%s: engine %s", options.name, self.engine.name)
        description = self.engine.description
        grammars = Grammars(folder, description.vocabulary, description.eos_ids)
        self._reader = Reader(
            description, self.tokenizer, grammars, options.sampling, deterministic=options.deterministic
        )
        self.scheduler = Scheduler(self.engine, options.limits)
        # The scheduler's thread would keep the model in memory for ever.
        self._finalizer = weakref.finalize(self, Scheduler.close, self.scheduler)

    def read(self, body: dict[str, Any], kind: Kind | None = None) -> Request:
        """Check a request; raises BadRequestError."""
        return self._reader.read(body, kind)

    def submit(self, request: Request, sink: Callable[[Piece | End], None]) -> tuple[Job, Answer]:
        """Queue a checked request; `sink` hears of every piece, from the scheduler's thread.

        Raises OverloadedError when the queue is full, and ValueError when the request can never fit.
        """
        deadline = time.monotonic() + self.options.timeout if self.options.timeout else None
        sampling = request.sampling
        job = Job(
            request.ids, sampling.max_tokens, sink, deadline=deadline, deterministic=request.deterministic
        )
        for index in range(request.n):
            grammar = request.grammar.fresh() if request.grammar else None
            text = TextStream(self.tokenizer, request.stop, keep_special=bool(request.tools))
            job.add(Sampler(sampling, grammar, index), text, ignore_eos=sampling.ignore_eos)
        answer = Answer(request, job, self.tokenizer, self.options.name)
        self.scheduler.submit(job)
        return job, answer

    def answer(self, request: Request) -> Answer:
        """The whole answer; raises what ended it otherwise."""
        # Woken at each token, the caller would take a core from the engine for nothing.
        pieces: list[Piece] = []
        ended: queue.SimpleQueue[End] = queue.SimpleQueue()
        job, answer = self.submit(
            request, lambda told: ended.put(told) if isinstance(told, End) else pieces.append(told)
        )
        try:
            end = ended.get()
        finally:
            job.cancel()
        if end.error is not None:
            raise end.error
        for piece in pieces:
            answer.add(piece)
        return answer

    def stream(self, request: Request) -> Iterator[Told]:
        """The answer in chunks. Leaving the iterator cancels the request."""
        heard: queue.SimpleQueue[Piece | End] = queue.SimpleQueue()
        job, answer = self.submit(request, heard.put)
        for piece in _pieces(heard, job):
            yield from answer.chunks(piece)
        yield from answer.last_chunks()

    def tokens(self, ids: list[int], sampling: Sampling) -> Iterator[int]:
        """New token ids, one by one, without the end-of-text token; alone, and nothing of a prompt reused."""
        self.engine.description.check_length(ids, sampling.max_tokens)
        heard: queue.SimpleQueue[Piece | End] = queue.SimpleQueue()
        job, _ = self.submit(Request("prompt", ids, sampling, deterministic=True), heard.put)
        for piece in _pieces(heard, job):
            if piece.sampled is not None:
                yield piece.sampled.token

    def close(self) -> None:
        """End the scheduler; running requests are told."""
        self._finalizer()


def _pieces(heard: queue.SimpleQueue[Piece | End], job: Job) -> Iterator[Piece]:
    try:
        while not isinstance(told := heard.get(), End):
            yield told
        if told.error is not None:
            raise told.error
    finally:
        job.cancel()
