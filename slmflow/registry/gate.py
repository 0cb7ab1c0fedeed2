"""The gate: a pure function of an evaluation, the thresholds, and the champion's evaluation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmflow.config import GateConfig, Threshold

FIDELITY = ("kl_mean", "top1_agreement")
ERRORS = 2.0
"""Standard errors of the difference beyond a margin at which a difference counts."""


@dataclass(frozen=True)
class Champion:
    """The version that a candidate would follow."""

    version: str
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One figure held against its limit."""

    name: str
    value: float | None
    """None when it was not measured; such a check does not fail unless it is required."""
    limit: float
    sense: str
    """`<=` or `>=`: how the value must stand to the limit."""
    against: str = ""
    """Where the limit comes from, for people; empty for the configuration."""
    required: bool = False

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; NaN never is."""
        if self.value is None:
            return not self.required
        return self.value <= self.limit if self.sense == "<=" else self.value >= self.limit

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        against = f", {self.against}" if self.against else ""
        return f"{self.name} {value} (must be {self.sense} {self.limit:.4g}{against})"


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate."""

    candidate: str
    checks: list[Check]
    notes: list[str] = field(default_factory=list)
    """What was not compared with the champion, and why."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def word(self) -> str:
        """`pass` or `miss`; a pass says when fidelity was not measured."""
        if not self.passed:
            return "miss"
        unmeasured = any(check.value is None and check.name in FIDELITY for check in self.checks)
        return "pass, fidelity not measured" if unmeasured else "pass"

    @property
    def misses(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    def as_dict(self) -> dict[str, Any]:
        """For `gate.json`."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {
            "candidate": self.candidate,
            "passed": self.passed,
            "word": self.word,
            "checks": checks,
            "notes": self.notes,
        }


def judge(evaluation: dict[str, Any], gate: GateConfig, champion: Champion | None = None) -> Verdict:
    """Hold an evaluation against the first threshold that fits its size and precision, and the champion.

    A champion of the same content is the candidate itself: nothing is compared.
    """
    threshold = threshold_for(gate, evaluation["parameters"], evaluation["precision"])
    checks, notes = _absolute(evaluation, gate, threshold), list[str]()
    if champion is not None and champion.evaluation["fingerprint"] != evaluation["fingerprint"]:
        relative, notes = _relative(evaluation, gate, threshold, champion)
        checks += relative
    return Verdict(evaluation["candidate"], checks, notes)


def threshold_for(gate: GateConfig, parameters: int | None, precision: str) -> Threshold | None:
    """The first row that fits; a model of unknown size counts as a large one."""
    size = float("inf") if parameters is None else parameters
    for row in gate.thresholds:
        if size <= row.max_parameters and (
            not row.precisions or precision in [p.value for p in row.precisions]
        ):
            return row
    return None


def _absolute(evaluation: dict[str, Any], gate: GateConfig, threshold: Threshold | None) -> list[Check]:
    fidelity, cost = evaluation["fidelity"] or {}, evaluation["cost"]
    checks = []
    if threshold is not None:
        checks.append(Check("kl_mean", fidelity.get("kl_mean"), threshold.max_kl, "<="))
        checks.append(Check("top1_agreement", fidelity.get("top1_agreement"), threshold.min_top1, ">="))
    if gate.min_task_score > 0:
        score = (evaluation.get("tasks") or {}).get("score")
        checks.append(Check("tasks.score", score, gate.min_task_score, ">=", required=True))
    speed = cost.get("decode_tokens_per_second")
    checks.append(Check("decode_tokens_per_second", speed, gate.min_decode_tokens_per_second, ">="))
    if math.isfinite(gate.max_peak_resident_bytes):
        peak = cost.get("peak_resident_bytes")
        limit = gate.max_peak_resident_bytes
        checks.append(Check("peak_resident_bytes", peak, limit, "<=", required=True))
    return checks


def _relative(
    evaluation: dict[str, Any], gate: GateConfig, threshold: Threshold | None, champion: Champion
) -> tuple[list[Check], list[str]]:
    """No worse than the champion by more than a margin; and what could not be compared."""
    checks, notes = [], []
    theirs, label = champion.evaluation, f"champion v{champion.version}"
    faithful, their_faithful = evaluation["fidelity"] or {}, theirs.get("fidelity") or {}
    if evaluation.get("source_digest") != theirs.get("source_digest"):
        notes.append(f"fidelity is not compared with {label}: it is of another source")
    elif threshold is not None:
        kl = _worse(faithful, their_faithful, "kl_mean", threshold.max_kl_increase, label, more=True)
        top1 = _worse(
            faithful, their_faithful, "top1_agreement", threshold.max_top1_decrease, label, more=False
        )
        checks += [check for check in (kl, top1) if check]
    tasks, their_tasks = evaluation.get("tasks") or {}, theirs.get("tasks") or {}
    if not tasks or not their_tasks:
        notes.append(f"tasks are not compared with {label}: not measured of both")
    elif tasks.get("digest") != their_tasks.get("digest"):
        notes.append(f"tasks are not compared with {label}: it answered other items")
    elif check := _worse(tasks, their_tasks, "score", gate.max_task_score_decrease, label, more=False):
        checks.append(check)
    machine = evaluation.get("machine")
    if not machine or machine != theirs.get("machine"):
        notes.append(f"speed and memory are not compared with {label}: measured on another machine")
        return checks, notes
    cost, their_cost = evaluation["cost"], theirs["cost"]
    for name, ratio, sense in (
        ("decode_tokens_per_second", gate.min_speed_ratio, ">="),
        ("peak_resident_bytes", gate.max_memory_ratio, "<="),
    ):
        if math.isfinite(ratio) and ratio > 0 and name in their_cost:
            against = f"{ratio:g} × that of {label}"
            checks.append(Check(name, cost.get(name), ratio * their_cost[name], sense, against))
    return checks, notes


def _worse(
    ours: dict[str, Any], theirs: dict[str, Any], name: str, margin: float, label: str, *, more: bool
) -> Check | None:
    """Whether `ours` is worse by more than the margin and ERRORS standard errors of the difference.

    The error is that of independent samples, sqrt(a² + b²); both are of the same text or items, whose
    differences vary less, so the true error is smaller. `more` says that more is worse. None where the
    champion's figure is not known, or the margin admits everything.
    """
    if theirs.get(name) is None or not math.isfinite(margin) or (not more and margin >= 1):
        return None
    error = math.hypot(ours.get(f"{name}_se") or 0.0, theirs.get(f"{name}_se") or 0.0)
    slack = margin + ERRORS * error
    limit = theirs[name] + slack if more else theirs[name] - slack
    against = f"{theirs[name]:.4g} of {label} {'+' if more else '−'} {margin:g} and {ERRORS:g} errors"
    shown = "tasks.score" if name == "score" else name
    return Check(shown, ours.get(name), limit, "<=" if more else ">=", against)
