"""The gate: a pure function of an evaluation, the thresholds, and the champion's evaluation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from slmflow.quality.alike import finite
from slmflow.registry.check import Check
from slmflow.registry.relative import Measured, not_inferior

if TYPE_CHECKING:
    from slmflow.config import GateConfig, Threshold
    from slmflow.registry.relative import Champion

FIDELITY = ("kl_mean", "top1_agreement")


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
            for name in ("value", "limit"):
                if check[name] is not None and finite(check[name]) is None:
                    check[name] = str(check[name])
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
    windows: dict[str, Any] | None = None,
) -> Verdict:
    """Hold an evaluation against the first threshold that fits its size and precision, and the champion.

    `items` and `windows` are the candidate's tables, for what it has in common with the champion. A champion
    of the same content is the candidate itself: nothing is compared.
    """
    threshold = threshold_for(gate, evaluation["parameters"], evaluation["precision"])
    checks, notes = _absolute(evaluation, gate, threshold), list[str]()
    if champion is not None and champion.evaluation["fingerprint"] != evaluation["fingerprint"]:
        relative, notes = not_inferior(Measured(evaluation, items, windows), gate, threshold, champion)
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
