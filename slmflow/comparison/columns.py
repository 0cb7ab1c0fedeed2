"""The columns of a comparison: which figures, how they are written, which way is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One figure of every candidate."""

    key: str
    """Path within an evaluation."""
    title: str
    written: Callable[[float], str]
    better: str
    """`lower`, `higher`, or empty where neither is."""
    part: str
    """`fidelity`, `tasks` or `cost`: what decides who may be compared with whom."""
    meaning: str
    relative: bool = False
    """Whether a difference is told as a multiple of the baseline."""

    @property
    def is_lead(self) -> bool:
        """Whether it is one of the few that a first look needs."""
        return self.key in LEAD

    @property
    def error_key(self) -> str:
        """The path of its standard error."""
        return f"{self.key}_se"


LEAD = (
    "fidelity.kl_mean",
    "fidelity.top1_agreement",
    "fidelity.tokens",
    "tasks.score",
    "tasks.flips",
    "tasks.items",
    "cost.size_bytes",
    "cost.decode_tokens_per_second",
    "cost.ttft_seconds",
    "cost.peak_resident_bytes",
)


def significant(value: float) -> str:
    """Three significant digits, without an exponent where it is not needed."""
    return "0" if value == 0 else f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def _fixed(digits: int, factor: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value * factor:,.{digits}f}"


def _measured(part: str, better: str, *columns: tuple[str, str, Callable[[float], str], str]) -> list[Column]:
    return [
        Column(key, title, written, better, part, meaning, relative=part in ("size", "cost"))
        for key, title, written, meaning in columns
    ]


COLUMNS = (
    *_measured(
        "fidelity",
        "lower",
        ("fidelity.kl_mean", "KL", significant, "mean KL divergence to the fp32 reference, nats a token"),
        ("fidelity.kl_p99", "KL p99", significant, "its 99th percentile"),
    ),
    *_measured(
        "fidelity",
        "higher",
        ("fidelity.top1_agreement", "top-1", _fixed(3), "share of tokens where both choose the same"),
    ),
    *_measured(
        "fidelity",
        "lower",
        (
            "fidelity.rms_delta_p",
            "RMS Δp",
            _fixed(4),
            "root mean square change of the true token's probability",
        ),
    ),
    *_measured(
        "fidelity",
        "",
        (
            "fidelity.perplexity_ratio",
            "PPL ratio",
            _fixed(3),
            "perplexity over the reference's; it can pass a ruined model",
        ),
    ),
    *_measured(
        "fidelity",
        "higher",
        (
            "fidelity.greedy_prefix_mean",
            "prefix",
            _fixed(1),
            "tokens, of 32, before a greedy answer parts from the pipeline's",
        ),
    ),
    *_measured("fidelity", "", ("fidelity.tokens", "tokens", _fixed(0), "scored tokens that fidelity is of")),
    *_measured(
        "tasks",
        "higher",
        ("tasks.score", "tasks", _fixed(3), "mean score of the kinds of task items"),
        ("tasks.kinds.multiple_choice.score", "choice", _fixed(3), "multiple choice by log-likelihood (acc)"),
        ("tasks.kinds.closed.score", "closed", _fixed(3), "closed questions, exact match"),
        ("tasks.kinds.instruction.score", "rules", _fixed(3), "instructions whose rules are kept"),
        ("tasks.kinds.json.score", "JSON", _fixed(3), "answers that are JSON of the schema"),
    ),
    *_measured(
        "tasks",
        "lower",
        ("tasks.flips", "flips", _fixed(3), "share of items whose correctness differs from the pipeline's"),
    ),
    *_measured("tasks", "", ("tasks.items", "items", _fixed(0), "items that tasks are of")),
    *_measured("size", "lower", ("cost.size_bytes", "MB", _fixed(0, 1e-6), "size of the packaged model")),
    *_measured(
        "cost",
        "higher",
        (
            "cost.decode_tokens_per_second",
            "tokens/s",
            _fixed(1),
            "decoding, the fastest of some answers",
        ),
        ("cost.prefill_tokens_per_second", "prefill/s", _fixed(0), "tokens of a prompt a second"),
    ),
    *_measured(
        "cost",
        "lower",
        ("cost.ttft_seconds", "TTFT ms", _fixed(0, 1e3), "time to the first token"),
        ("cost.load_seconds", "load s", _fixed(1), "from nothing to the first token"),
        ("cost.peak_resident_bytes", "memory MB", _fixed(0, 1e-6), "most memory of the process"),
    ),
)
