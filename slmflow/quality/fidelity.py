"""How far a candidate's next-token distributions are from the reference's.

Notation: p is the reference's and q the candidate's distribution at a position, x the true next token;
arrays hold natural log-probabilities of shape (positions, vocabulary). Definitions as in llama.cpp's
tools/perplexity/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.floating]
BLOCK = 64
"""Positions worked on at once: float64 of 64 x 200,000 words is 100 MB."""


def log_softmax(logits: Logs) -> NDArray[np.float32]:
    """Natural log-probabilities along the last axis, summed in float64."""
    shifted = np.asarray(logits, dtype=np.float32)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return (shifted - np.log(total)).astype(np.float32)


def kl_divergence(reference: Logs, candidate: Logs) -> NDArray[np.float64]:
    """KL(p || q) = sum_v p ln(p / q) in nats, for each position, in float64.

    Both are normalised again in float64, so that rounding of the stored logarithms does not appear as
    a divergence; negative rounding residues are cut to 0.
    """
    values = np.empty(len(reference))
    for start in range(0, len(reference), BLOCK):
        block = slice(start, start + BLOCK)
        p, q = _normalised(reference[block]), _normalised(candidate[block])
        values[block] = np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0.0)
    return values


def top1_agreement(reference: Logs, candidate: Logs) -> NDArray[np.bool_]:
    """Whether the most probable token is the same, for each position."""
    return np.asarray(reference.argmax(axis=-1) == candidate.argmax(axis=-1))


def token_logprobs(logs: Logs, targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Ln q(x) of each true next token."""
    return np.asarray(logs[np.arange(len(targets)), targets], dtype=np.float64)


@dataclass(frozen=True)
class Window:
    """A run of tokens whose second half is scored, as llama.cpp's perplexity does."""

    ids: list[int]

    @property
    def scored(self) -> slice:
        """Positions whose next token is scored: from the middle to the one before last."""
        return slice(len(self.ids) // 2, len(self.ids) - 1)

    @property
    def targets(self) -> NDArray[np.int64]:
        """The true next token of each scored position."""
        return np.asarray(self.ids[len(self.ids) // 2 + 1 :], dtype=np.int64)


def windows_of(ids: list[int], size: int, count: int) -> list[Window]:
    """At most `count` whole windows of `size` tokens, one after another."""
    starts = range(0, len(ids) - size + 1, size)
    return [Window(ids[start : start + size]) for start in starts[:count]]


@dataclass(frozen=True)
class Positions:
    """What was found at each scored position; aggregates of any part of them are cheap."""

    kl: NDArray[np.float64]
    same_top1: NDArray[np.bool_]
    reference: NDArray[np.float64]
    """ln p(x)"""
    candidate: NDArray[np.float64]
    """ln q(x)"""

    def __getitem__(self, part: slice) -> Positions:
        """A run of positions, a window's for example."""
        return Positions(self.kl[part], self.same_top1[part], self.reference[part], self.candidate[part])

    def figures(self) -> dict[str, float]:
        """Every fidelity figure; the means with their standard errors (`_se`)."""
        n = len(self.kl)
        agreement = float(self.same_top1.mean())
        return {
            "tokens": float(n),
            "kl_mean": float(self.kl.mean()),
            "kl_mean_se": float(self.kl.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
            "kl_p99": float(np.quantile(self.kl, 0.99)),
            "kl_max": float(self.kl.max()),
            "top1_agreement": agreement,
            "top1_agreement_se": float(np.sqrt(agreement * (1 - agreement) / n)),
            "perplexity": float(np.exp(-self.candidate.mean())),
            "perplexity_reference": float(np.exp(-self.reference.mean())),
            "perplexity_ratio": float(np.exp((self.reference - self.candidate).mean())),
        }


def compare(reference: Logs, candidate: Logs, targets: NDArray[np.integer]) -> Positions:
    """Hold two arrays of log-probabilities against each other and against the true next tokens."""
    return Positions(
        kl_divergence(reference, candidate),
        top1_agreement(reference, candidate),
        token_logprobs(reference, targets),
        token_logprobs(candidate, targets),
    )


def _normalised(logs: Logs) -> NDArray[np.float64]:
    exact = np.asarray(logs, dtype=np.float64)
    return np.asarray(exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True)))
