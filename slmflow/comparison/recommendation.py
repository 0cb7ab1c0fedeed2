"""Which candidate to ship, in one sentence with its rule; and who was left out, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.comparison.groups import groups_of
from slmflow.registry.gate import judge

if TYPE_CHECKING:
    from slmflow.comparison.entry import Entry
    from slmflow.config import GateConfig

CLOSE = 0.95
"""Candidates at least this many times as fast as the fastest count as equally fast: then size decides."""
RULE = (
    "the fastest ONNX candidate that passes the gate by itself; "
    f"of those at least {CLOSE:g} × as fast, the smallest"
)
SIZE, SPEED, KL = "cost.size_bytes", "cost.decode_tokens_per_second", "fidelity.kl_mean"


def recommend(entries: list[Entry], gate: GateConfig) -> tuple[Entry | None, str]:
    """The candidate to ship, and the words that say so.

    Speeds are compared on one machine only: on that of most who pass, the first of several.
    """
    asked = [entry for entry in entries if not entry.is_pipeline]
    reasons = {entry.run_id: reason_against(entry, gate) for entry in asked}
    left_out = [f"{entry.label} ({reasons[entry.run_id]})" for entry in asked if reasons[entry.run_id]]
    passing = groups_of([entry for entry in asked if not reasons[entry.run_id]], "cost")
    if not passing:
        return None, f"Ship none of these: no ONNX candidate passes the gate (rule: {RULE}).{_why(left_out)}"
    home = max(passing, key=len)
    fastest = max(_figure(entry, SPEED) for entry in home)
    chosen = min(
        (entry for entry in home if _figure(entry, SPEED) >= CLOSE * fastest),
        key=lambda entry: (_figure(entry, SIZE), _figure(entry, KL), -_figure(entry, SPEED), entry.label),
    )
    kl = chosen.figure(KL)
    figures = [f"{_figure(chosen, SPEED):.0f} tokens/s", *([f"KL {kl:.2g}"] if kl is not None else [])]
    figures.append(f"{_figure(chosen, SIZE) / 1e6:.0f} MB")
    left_out += [
        f"{entry.label} (passes, but its speed is another machine's)"
        for group in passing
        if group is not home
        for entry in group
    ]
    return chosen, f"Ship {chosen.label}: {', '.join(figures)} (rule: {RULE}).{_why(left_out)}"


def _why(left_out: list[str]) -> str:
    return f" Left out: {'; '.join(left_out)}." if left_out else ""


def reason_against(entry: Entry, gate: GateConfig) -> str:
    """Why a candidate cannot be recommended, if so. What was not measured is not taken for good."""
    verdict = judge(entry.evaluation, gate)
    if verdict.misses:
        return "; ".join(map(str, verdict.misses))
    if unmeasured := [check.name for check in verdict.checks if check.value is None]:
        return f"{', '.join(unmeasured)} not measured"
    missing = [key.partition(".")[2] for key in (SIZE, SPEED) if not entry.figure(key)]
    return f"{', '.join(missing)} not measured" if missing else ""


def _figure(entry: Entry, key: str) -> float:
    return entry.figure(key) or 0.0
