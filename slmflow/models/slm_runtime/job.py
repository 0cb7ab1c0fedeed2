"""One request while it runs: its answers, its deadline, and who is told of each token."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import CancelledError, TimedOutError
from .sampling import Sampled, Sampler
from .text import TextStream


@dataclass(frozen=True)
class Piece:
    """What one step added to one of a request's answers."""

    index: int
    text: str = ""
    sampled: Sampled | None = None
    finish_reason: str | None = None
    """`stop` at a stop text, the end of text, or the end of a grammar; `length` at max_tokens."""


@dataclass(frozen=True)
class End:
    """All answers are whole, or `error` says why they will not be."""

    error: Exception | None = None


class Job:
    """A checked request on its way through the scheduler.

    `sink` is called from the scheduler's thread and must not block: with a Piece for each token of each
    answer, and at last once with an End.
    """

    def __init__(
        self,
        ids: list[int],
        max_tokens: int,
        sink: Callable[[Piece | End], None],
        *,
        deadline: float | None = None,
        deterministic: bool = False,
    ) -> None:
        self.ids, self.max_tokens, self.deterministic = ids, max_tokens, deterministic
        self.length = len(ids) + max_tokens
        self.sequences: list[Sequence] = []
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.first_token: float | None = None
        self.ended: float | None = None
        self.cached_tokens = 0
        self.failed = False
        self._sink, self._deadline = sink, deadline
        self._cancelled = False

    @property
    def n(self) -> int:
        """Number of answers."""
        return len(self.sequences)

    @property
    def completion_tokens(self) -> int:
        """Tokens drawn for all answers, the end of text not counted."""
        return sum(sequence.spoken for sequence in self.sequences)

    def add(self, sampler: Sampler, text: TextStream, *, ignore_eos: bool = False) -> None:
        """One more answer to this prompt."""
        self.sequences.append(Sequence(self, len(self.sequences), sampler, text, ignore_eos))

    def cancel(self) -> None:
        """Stop working at the next token."""
        self._cancelled = True

    def is_over(self) -> bool:
        """Whether to stop: cancelled, failed, or past the deadline (which then fails it)."""
        if self._cancelled and self.ended is None:
            self.fail(CancelledError("the request was cancelled"))
        elif self._deadline is not None and time.monotonic() > self._deadline and self.ended is None:
            waited = time.monotonic() - self.submitted
            self.fail(
                TimedOutError(f"no whole answer within {waited:.0f} s: lower max_tokens, or ask again later")
            )
        return self.failed

    def fail(self, error: Exception) -> None:
        """Tell the consumer once why there will be no answer."""
        if self.ended is None:
            self.failed, self.ended = True, time.monotonic()
            self._sink(End(error))

    def tell(self, piece: Piece) -> None:
        """Pass a piece on; after the last answer's last piece, the end."""
        if self.ended is not None:
            return
        self.first_token = self.first_token or time.monotonic()
        self._sink(piece)
        if all(sequence.finished for sequence in self.sequences):
            self.ended = time.monotonic()
            self._sink(End())


class Sequence:
    """One answer of a job."""

    def __init__(self, job: Job, index: int, sampler: Sampler, text: TextStream, ignore_eos: bool) -> None:
        self.job, self.index = job, index
        self.ids: list[int] = []
        """Tokens drawn so far."""
        self.spoken = 0
        self.cache: Any = None
        self.finished = False
        self._sampler, self._text, self._ignore_eos = sampler, text, ignore_eos

    def take(self, logits: Any, eos_ids: frozenset[int]) -> bool:
        """Draw one token and tell of it; True when it was the last."""
        sampled = self._sampler.draw(logits)
        if sampled.token in eos_ids and not self._ignore_eos:
            return self._finish("stop", "", None)
        self.ids.append(sampled.token)
        self.spoken += 1
        piece = self._text.push(sampled.token)
        if self._text.stopped or self._sampler.is_complete:
            return self._finish("stop", piece, sampled)
        if self.spoken == self.job.max_tokens:
            return self._finish("length", piece, sampled)
        self.job.tell(Piece(self.index, piece, sampled))
        return False

    def _finish(self, reason: str, piece: str, sampled: Sampled | None) -> bool:
        piece += self._text.finish()
        self.finished = True
        if reason == "length" and self._text.stopped:
            reason = "stop"
        self.job.tell(Piece(self.index, piece, sampled, reason))
        return True
