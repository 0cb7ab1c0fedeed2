"""One token from logits, as a request wants it: in numpy, the same for every engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens; the names are those of OpenAI's API."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Both are taken off the logits of tokens that this answer already has, once and per occurrence."""
    top_logprobs: int | None = None
    """Alternatives reported with each token's log-probability; None reports nothing."""
    ignore_eos: bool = False
    """Go on to max_tokens past the end of text: for measurements."""


class Constraint(Protocol):
    """What may come next, such as a JSON schema."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come now, shape (vocabulary,)."""

    def take(self, token: int) -> None:
        """The token that came."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""


@dataclass(frozen=True)
class Logprob:
    """A token with its natural log-probability under the model, before penalties and temperature."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Sampled:
    """The token that was drawn, with what was asked to be known about it."""

    token: int
    logprob: Logprob | None = None
    alternatives: tuple[Logprob, ...] = ()


class Sampler:
    """The state of one answer: its random numbers, what it has said, what it may say."""

    def __init__(self, sampling: Sampling, constraint: Constraint | None = None, index: int = 0) -> None:
        self._sampling = sampling
        self._constraint = constraint
        self._said: Counter[int] = Counter()
        seed = sampling.seed
        # n answers with one seed would be n times the same
        self._random = np.random.default_rng(None if seed is None else [seed & (2**64 - 1), index])

    def draw(self, logits: Logits) -> Sampled:
        """The next token from its logits, shape (vocabulary,); the array is left as it was."""
        sampling = self._sampling
        scores = logits
        if self._said and (sampling.presence_penalty or sampling.frequency_penalty):
            scores = self._penalised(scores)
        if self._constraint is not None:
            scores = np.where(self._constraint.allowed(), scores, -np.inf)
        token = int(scores.argmax()) if _is_greedy(sampling) else self._chosen(scores)
        self._said[token] += 1
        if self._constraint is not None:
            self._constraint.take(token)
        return self._reported(token, logits)

    @property
    def is_complete(self) -> bool:
        """Whether the constraint admits no further token."""
        return self._constraint is not None and self._constraint.is_complete

    def _penalised(self, logits: Logits) -> Logits:
        scores = logits.copy()
        said = np.fromiter(self._said, dtype=np.int64)
        counts = np.fromiter(self._said.values(), dtype=np.float32)
        scores[said] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * counts
        return scores

    def _chosen(self, scores: Logits) -> int:
        """A random token of the smallest set that temperature, top_k and top_p leave."""
        sampling = self._sampling
        kept = np.arange(len(scores))
        if 0 < sampling.top_k < len(scores):
            kept = np.argpartition(scores, -sampling.top_k)[-sampling.top_k :]
        shifted = (scores[kept] - scores[kept].max()).astype(np.float64) / sampling.temperature
        weights = np.exp(shifted)
        weights /= weights.sum()
        if sampling.top_p < 1:
            order = np.argsort(-weights, kind="stable")
            count = int(np.searchsorted(np.cumsum(weights[order]), sampling.top_p)) + 1
            kept, weights = kept[order[:count]], weights[order[:count]]
            weights /= weights.sum()
        return int(self._random.choice(kept, p=weights))

    def _reported(self, token: int, logits: Logits) -> Sampled:
        wanted = self._sampling.top_logprobs
        if wanted is None:
            return Sampled(token)
        top = float(logits.max())
        log_total = top + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
        likeliest = np.argpartition(logits, -wanted)[-wanted:] if wanted else np.array([], dtype=np.int64)
        ordered = likeliest[np.argsort(-logits[likeliest], kind="stable")]
        alternatives = tuple(Logprob(int(other), float(logits[other]) - log_total) for other in ordered)
        return Sampled(token, Logprob(token, float(logits[token]) - log_total), alternatives)


def _is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature == 0 or sampling.top_p == 0 or sampling.top_k == 1
