"""The gate: a pure function of an evaluation and the thresholds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmflow.config import GateConfig, Threshold


@dataclass(frozen=True)
class Check:
    """One figure held against its limit."""

    name: str
    value: float | None
    """None when it was not measured; such a check does not fail."""
    limit: float
    sense: str
    """`<=` or `>=`: how the value must stand to the limit."""

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; NaN never is."""
        if self.value is None:
            return True
        return self.value <= self.limit if self.sense == "<=" else self.value >= self.limit

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{self.name} {value} (must be {self.sense} {self.limit:g})"


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate."""

    candidate: str
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def word(self) -> str:
        """`pass` or `miss`; a pass says when something was not measured."""
        if not self.passed:
            return "miss"
        unmeasured = any(check.value is None for check in self.checks)
        return "pass, fidelity not measured" if unmeasured else "pass"

    @property
    def misses(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    def as_dict(self) -> dict[str, Any]:
        """For `gate.json`."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"candidate": self.candidate, "passed": self.passed, "word": self.word, "checks": checks}


def judge(evaluation: dict[str, Any], gate: GateConfig) -> Verdict:
    """Hold an evaluation against the first threshold that fits its size and precision."""
    threshold = threshold_for(gate, evaluation["parameters"], evaluation["precision"])
    fidelity, checks = evaluation["fidelity"] or {}, []
    if threshold is not None:
        checks.append(Check("kl_mean", fidelity.get("kl_mean"), threshold.max_kl, "<="))
        checks.append(Check("top1_agreement", fidelity.get("top1_agreement"), threshold.min_top1, ">="))
    speed = evaluation["cost"]["decode_tokens_per_second"]
    checks.append(Check("decode_tokens_per_second", speed, gate.min_decode_tokens_per_second, ">="))
    return Verdict(evaluation["candidate"], checks)


def threshold_for(gate: GateConfig, parameters: int | None, precision: str) -> Threshold | None:
    """The first row that fits; a model of unknown size counts as a large one."""
    size = float("inf") if parameters is None else parameters
    for row in gate.thresholds:
        if size <= row.max_parameters and (
            not row.precisions or precision in [p.value for p in row.precisions]
        ):
            return row
    return None
