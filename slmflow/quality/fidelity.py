"""How far a candidate's next-token distributions are from the reference's.

Notation: p is the reference's and q the candidate's distribution at a position, x the true next token;
arrays hold natural log-probabilities of shape (positions, vocabulary). Definitions as in llama.cpp's
tools/perplexity/README.md. Standard errors (`_se`) take positions for independent, as llama.cpp's do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.floating]
BLOCK = 2
"""Positions worked on at once: few, so that what is made of them stays in the processor's cache."""
PERCENTILES = (50, 90, 99)


def log_softmax(logits: Logs) -> NDArray[np.float32]:
    """Natural log-probabilities along the last axis, summed in float64."""
    values = np.empty(logits.shape, dtype=np.float32)
    for start in range(0, len(logits), BLOCK):
        block = slice(start, start + BLOCK)
        part = np.asarray(logits[block], dtype=np.float32)
        part = part - part.max(axis=-1, keepdims=True)
        values[block] = part - np.log(np.exp(part).sum(axis=-1, keepdims=True, dtype=np.float64))
    return values


def kl_divergence(reference: Logs, candidate: Logs) -> NDArray[np.float64]:
    """KL(p || q) = sum_v p ln(p / q) in nats, for each position, in float64.

    Both are normalised again in float64, so that rounding of the stored logarithms does not appear as
    a divergence; negative rounding residues are cut to 0. With p = p' / P and q = q' / Q, where P and Q are
    the sums of what was stored, it is sum_v p' ln(p' / q') / P - ln P + ln Q: an exponential each.
    """
    values = np.empty(len(reference))
    for start in range(0, len(reference), BLOCK):
        block = slice(start, start + BLOCK)
        p, q = reference[block].astype(np.float64), candidate[block].astype(np.float64)
        ratio = p - q
        np.exp(p, out=p)
        np.exp(q, out=q)
        total = p.sum(axis=-1)
        ratio *= p
        values[block] = ratio.sum(axis=-1) / total - np.log(total) + np.log(q.sum(axis=-1))
    return np.maximum(values, 0.0)


def top1_agreement(reference: Logs, candidate: Logs) -> NDArray[np.bool_]:
    """Whether the most probable token is the same, for each position."""
    return np.asarray(reference.argmax(axis=-1) == candidate.argmax(axis=-1))


def token_logprobs(logs: Logs, targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Ln q(x) of each true next token."""
    return np.asarray(logs[np.arange(len(targets)), targets], dtype=np.float64)


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

    @classmethod
    def joined(cls, parts: list[Positions]) -> Positions:
        """All positions of several runs, in order."""
        return cls(
            np.concatenate([part.kl for part in parts]),
            np.concatenate([part.same_top1 for part in parts]),
            np.concatenate([part.reference for part in parts]),
            np.concatenate([part.candidate for part in parts]),
        )

    def figures(self) -> dict[str, float]:
        """Every fidelity figure; all but the extremes with their standard errors.

        `rms_delta_p` is the root of the mean of (q(x) - p(x))². Errors of functions of a mean are those of
        the mean times the derivative.
        """
        agreement = float(self.same_top1.mean())
        delta = np.exp(self.candidate) - np.exp(self.reference)
        rms = float(np.sqrt(np.mean(delta**2)))
        perplexity = float(np.exp(-self.candidate.mean()))
        ratio = float(np.exp((self.reference - self.candidate).mean()))
        return {
            "tokens": float(len(self.kl)),
            "kl_mean": float(self.kl.mean()),
            "kl_mean_se": standard_error(self.kl),
            **quantiles("kl", self.kl),
            "kl_max": float(self.kl.max()),
            "top1_agreement": agreement,
            "top1_agreement_se": float(np.sqrt(agreement * (1 - agreement) / len(self.kl))),
            "rms_delta_p": rms,
            "rms_delta_p_se": standard_error(delta**2) / (2 * rms) if rms else 0.0,
            "perplexity": perplexity,
            "perplexity_se": perplexity * standard_error(self.candidate),
            "perplexity_reference": float(np.exp(-self.reference.mean())),
            "perplexity_ratio": ratio,
            "perplexity_ratio_se": ratio * standard_error(self.reference - self.candidate),
        }


def standard_error(values: NDArray[np.floating]) -> float:
    """Of the mean: the sample's standard deviation over the root of their number; 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def quantiles(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """`<name>_p50`, `_p90`, `_p99` with their standard errors.

    The error is half the distance between the order statistics one binomial standard deviation, the root
    of n q (1 - q), below and above (a distribution-free interval: David and Nagaraja, Order Statistics, 7.1).
    """
    ordered, found = np.sort(values), {}
    n = len(ordered)
    for percent in PERCENTILES:
        share = percent / 100
        spread = np.sqrt(n * share * (1 - share))
        low, high = np.clip(np.rint([(n - 1) * share - spread, (n - 1) * share + spread]), 0, n - 1)
        found[f"{name}_p{percent}"] = float(np.quantile(ordered, share))
        found[f"{name}_p{percent}_se"] = float(ordered[int(high)] - ordered[int(low)]) / 2
    return found


def compare(reference: Logs, candidate: Logs, targets: NDArray[np.integer]) -> Positions:
    """Hold two arrays of log-probabilities against each other and against the true next tokens."""
    return Positions(
        kl_divergence(reference, candidate),
        top1_agreement(reference, candidate),
        token_logprobs(reference, targets),
        token_logprobs(candidate, targets),
    )
