"""The gate: a pure function of an evaluation, the thresholds, and the champion's evaluation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from slmflow.quality.alike import finite, same_items, same_machine, same_source, same_text
from slmflow.registry.paired import paired_error

if TYPE_CHECKING:
    from slmflow.config import GateConfig, Threshold

FIDELITY = ("kl_mean", "top1_agreement")
ERRORS = 1.645
"""Standard errors of the difference that must fit into a margin: a one-sided bound of 95 %."""


@dataclass(frozen=True)
class Champion:
    """The version that a candidate would follow."""

    version: str
    evaluation: dict[str, Any]
    items: dict[str, Any] | None = None
    """Its `items.json`; None where it cannot be had."""


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
        for check in checks:  # JSON has no NaN
            if check["value"] is not None and finite(check["value"]) is None:
                check["value"] = str(check["value"])
        return {
            "candidate": self.candidate,
            "passed": self.passed,
            "word": self.word,
            "checks": checks,
            "notes": self.notes,
        }


def judge(
    evaluation: dict[str, Any],
    gate: GateConfig,
    champion: Champion | None = None,
    items: dict[str, Any] | None = None,
) -> Verdict:
    """Hold an evaluation against the first threshold that fits its size and precision, and the champion.

    `items` is the candidate's `items.json`, for the error of its tasks against the champion's. A champion of
    the same content is the candidate itself: nothing is compared.
    """
    threshold = threshold_for(gate, evaluation["parameters"], evaluation["precision"])
    checks, notes = _absolute(evaluation, gate, threshold), list[str]()
    if champion is not None and champion.evaluation["fingerprint"] != evaluation["fingerprint"]:
        relative, notes = _relative(evaluation, gate, threshold, champion, items)
        checks += relative
    return Verdict(evaluation["candidate"], checks, notes)


def threshold_for(gate: GateConfig, parameters: int | None, precision: str) -> Threshold | None:
    """The first row that fits; a model of unknown size counts as a large one."""
    size = float("inf") if parameters is None else parameters
    for row in gate.thresholds:
        if (size < row.max_parameters or math.isinf(row.max_parameters)) and (
            not row.precisions or precision in [p.value for p in row.precisions]
        ):
            return row
    return None


def _absolute(evaluation: dict[str, Any], gate: GateConfig, threshold: Threshold | None) -> list[Check]:
    fidelity, cost = evaluation["fidelity"] or {}, evaluation["cost"]
    checks = []
    if gate.mode.value == "enforce" and not fidelity and not evaluation.get("tasks"):
        checks.append(Check("fidelity and tasks", None, 0.0, ">=", "nothing was measured", required=True))
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
    evaluation: dict[str, Any],
    gate: GateConfig,
    threshold: Threshold | None,
    champion: Champion,
    items: dict[str, Any] | None,
) -> tuple[list[Check], list[str]]:
    """Not inferior to the champion by a margin; and what could not be compared."""
    theirs, of = champion.evaluation, f"of champion v{champion.version}"
    label = f"champion v{champion.version}"
    margins: list[tuple[str, str, float, bool, float | None]] = []
    notes = []
    if not same_source(evaluation, theirs):
        notes.append(f"fidelity is not compared with {label}: it is of another source")
    elif not same_text(evaluation, theirs):
        notes.append(f"fidelity is not compared with {label}: it was measured on another text")
    elif threshold is not None:
        known = 0.0 if evaluation["fidelity"] == theirs.get("fidelity") else None
        margins.append(("fidelity", "kl_mean", threshold.max_kl_increase, True, known))
        margins.append(("fidelity", "top1_agreement", threshold.max_top1_decrease, False, known))
    if not evaluation.get("tasks") or not theirs.get("tasks"):
        notes.append(f"tasks are not compared with {label}: not measured of both")
    elif not same_items(evaluation, theirs):
        notes.append(f"tasks are not compared with {label}: it answered other items")
    else:
        same = 0.0 if evaluation["tasks"] == theirs["tasks"] else None
        error = paired_error(items, champion.items) if items and champion.items else same
        margins.append(("tasks", "score", gate.max_task_score_decrease, False, error))
    checks = []
    for part, name, margin, more, error in margins:
        ours_, theirs_ = evaluation[part] or {}, theirs.get(part) or {}
        if theirs_.get(name) is not None and finite(theirs_[name]) is None:
            notes.append(f"{name} is not compared with {label}: it is {theirs_[name]} there")
        elif check := _not_inferior(ours_, theirs_, name, margin, of, more=more, error=error):
            checks.append(check)
    if not evaluation.get("machine") or not same_machine(evaluation, theirs):
        notes.append(f"speed and memory are not compared with {label}: measured on another machine")
        return checks, notes
    cost, their_cost = evaluation["cost"], theirs["cost"]
    for name, ratio, sense in (
        ("decode_tokens_per_second", gate.min_speed_ratio, ">="),
        ("peak_resident_bytes", gate.max_memory_ratio, "<="),
    ):
        if math.isfinite(ratio) and ratio > 0 and their_cost.get(name) is not None:
            base = finite(their_cost[name])
            if base is None:
                notes.append(f"{name} is not compared with {label}: it is {their_cost[name]} there")
                continue
            checks.append(Check(name, cost.get(name), ratio * base, sense, f"{ratio:g} × that {of}"))
    return checks, notes


def _not_inferior(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    name: str,
    margin: float,
    of: str,
    *,
    more: bool,
    error: float | None,
) -> Check | None:
    """Whether `ours` is proven, at 95 %, to be worse by less than the margin.

    The difference in the bad direction and ERRORS standard errors of it must fit into the margin. `error` is
    that of the difference where it is known; else that of independent samples, sqrt(a² + b²). `more` says
    that more is worse. None where the champion's figure is not known, or the margin admits everything.
    """
    if theirs.get(name) is None or not math.isfinite(margin) or (not more and margin >= 1):
        return None
    if error is None:
        error = math.hypot(*(finite(side.get(f"{name}_se")) or 0.0 for side in (ours, theirs)))
    room = margin - ERRORS * error
    limit = theirs[name] + room if more else theirs[name] - room
    sign, back = ("+", "−") if more else ("−", "+")
    against = f"{theirs[name]:.4g} {of} {sign} {margin:g} {back} {ERRORS:g} errors of {error:.2g}"
    shown = "tasks.score" if name == "score" else name
    return Check(shown, ours.get(name), limit, "<=" if more else ">=", against)
