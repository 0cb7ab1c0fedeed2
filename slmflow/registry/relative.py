"""A candidate against the champion: not inferior by a margin, on what both were asked.

A comparison that a margin demands and that cannot be made does not pass: cut texts or items would let a worse
model through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.quality.alike import finite, same_items, same_machine, same_set, same_source, same_text
from slmflow.quality.cost import busy
from slmflow.registry.check import Check
from slmflow.registry.common import (
    fidelity_of,
    items_in_common,
    score_of,
    windows_in_common,
)
from slmflow.registry.needed import ERRORS, enough_items, tokens_of_row
from slmflow.registry.paired import correct_of, paired_error

if TYPE_CHECKING:
    from slmflow.config import GateConfig, Threshold

UNBOUNDED = {"kl_mean": "max_kl_increase=inf", "top1_agreement": "max_top1_decrease=1"}
"""Figure to its margin's key, with the value that admits everything."""


@dataclass(frozen=True)
class Champion:
    """The version that a candidate would follow."""

    version: str
    evaluation: dict[str, Any]
    items: dict[str, Any] | None = None
    """Its `items.json`; None where it cannot be had."""
    windows: dict[str, Any] | None = None
    """Its `windows.json`; None where it cannot be had."""
    logged_run: str = ""
    """The run that logged its model, by which it can be evaluated again."""

    @property
    def label(self) -> str:
        """For people."""
        return f"champion v{self.version}"

    @property
    def again(self) -> str:
        """What makes a comparison possible, for people."""
        how = f" (-e evaluate -P logged_run={self.logged_run})" if self.logged_run else ""
        return f"evaluate {self.label} with these settings{how}"


@dataclass(frozen=True)
class Measured:
    """A candidate's evaluation, and the tables that it left where they can be had."""

    evaluation: dict[str, Any]
    items: dict[str, Any] | None = None
    windows: dict[str, Any] | None = None


@dataclass(frozen=True)
class Pair:
    """The figures of both sides on what both were asked."""

    ours: dict[str, Any]
    theirs: dict[str, Any]
    error: float | None
    """Of the difference; None for that of independent samples."""
    on: str = ""
    """What that is, where it is not all of either side."""


def not_inferior(
    ours: Measured, gate: GateConfig, threshold: Threshold | None, champion: Champion
) -> tuple[list[Check], list[str]]:
    """Checks that a candidate is not worse than the champion by a margin; and what could not be compared."""
    fidelity, notes = _fidelity(ours, gate, threshold, champion)
    tasks, said = _tasks(ours, gate, champion)
    cost, more = _cost(ours.evaluation, gate, champion)
    return [*fidelity, *tasks, *cost], [*notes, *said, *more]


def _fidelity(
    ours: Measured, gate: GateConfig, threshold: Threshold | None, champion: Champion
) -> tuple[list[Check], list[str]]:
    mine, theirs = ours.evaluation, champion.evaluation
    if not same_source(mine, theirs):
        return [], [f"fidelity is not compared with {champion.label}: it is of another source"]
    if threshold is None:
        return [], []
    if not theirs.get("fidelity"):
        return [], [f"fidelity is not compared with {champion.label}: it was not measured there"]
    margins = [
        ("kl_mean", threshold.max_kl_increase, True),
        ("top1_agreement", threshold.max_top1_decrease, False),
    ]
    demanded = [(name, margin, more) for name, margin, more in margins if _demands(margin, more=more)]
    pair = _fidelity_of_both(ours, threshold, champion)
    if isinstance(pair, str):
        row = f"gate.thresholds.{gate.thresholds.index(threshold)}"
        keys = " and ".join(f"{row}.{UNBOUNDED[name]}" for name, _, _ in demanded)
        return [_refused(name, pair, keys) for name, _, _ in demanded], []
    checks, notes = [], []
    for name, margin, more in demanded:
        if pair.theirs.get(name) is None or finite(pair.theirs[name]) is None:
            notes.append(f"{name} is not compared with {champion.label}: it is {pair.theirs.get(name)} there")
        else:
            checks.append(_check(name, pair, name, margin, champion, more=more))
    return checks, notes


def _fidelity_of_both(ours: Measured, threshold: Threshold, champion: Champion) -> Pair | str:
    """Figures on the same tokens; or why there are none."""
    mine, theirs = ours.evaluation.get("fidelity"), champion.evaluation["fidelity"]
    if not mine:
        return "fidelity was not measured: measure it"
    if same_text(ours.evaluation, champion.evaluation):
        return Pair(mine, theirs, 0.0 if mine == theirs else None)
    common = windows_in_common(ours.windows, champion.windows)
    sides = [fidelity_of(table, common) for table in (ours.windows, champion.windows)]
    if not common or sides[0] is None or sides[1] is None:
        return f"{champion.label} was measured on another text: {champion.again}"
    tokens = sides[0]["tokens"]
    if tokens < min(tokens_of_row(threshold), theirs.get("tokens", 0)):
        return f"{tokens:.0f} tokens of {champion.label}'s text are too few for the margins: ask more windows"
    on = f"the {tokens:.0f} tokens of both"
    return Pair(sides[0], sides[1], 0.0 if sides[0] == sides[1] else None, on)


def _tasks(ours: Measured, gate: GateConfig, champion: Champion) -> tuple[list[Check], list[str]]:
    theirs = champion.evaluation.get("tasks")
    if not theirs:
        return [], [f"tasks are not compared with {champion.label}: it was not asked any"]
    margin = gate.max_task_score_decrease
    if not _demands(margin, more=False):
        return [], []
    pair = _tasks_of_both(ours, margin, champion)
    if isinstance(pair, str):
        return [_refused("tasks.score", pair, "gate.max_task_score_decrease=1")], []
    if pair.theirs.get("score") is None or finite(pair.theirs["score"]) is None:
        return [], [f"score is not compared with {champion.label}: it is {pair.theirs.get('score')} there"]
    return [_check("tasks.score", pair, "score", margin, champion, more=False)], []


def _tasks_of_both(ours: Measured, margin: float, champion: Champion) -> Pair | str:
    """Scores of the same items; or why there are none."""
    mine, theirs = ours.evaluation.get("tasks"), champion.evaluation["tasks"]
    if not mine:
        return "tasks were not measured: ask the items that the champion was asked"
    if same_items(ours.evaluation, champion.evaluation):
        equal = 0.0 if mine == theirs else None
        both = ours.items and champion.items
        return Pair(mine, theirs, paired_error(ours.items, champion.items) if both else equal)
    tables = None
    if same_set(ours.evaluation, champion.evaluation):
        tables = items_in_common(ours.items, champion.items)
    if tables is None:
        return f"{champion.label} answered other items: {champion.again}"
    kinds, count = [kind for kind, _ in correct_of(tables[0])], len(tables[0]["data"])
    if count < theirs.get("items", 0) and not enough_items(kinds, margin):
        return f"{count} of {champion.label}'s items are too few for the margin: ask more"
    on = f"the {count} items of both"
    return Pair(score_of(tables[0]), score_of(tables[1]), paired_error(*tables), on)


def _cost(evaluation: dict[str, Any], gate: GateConfig, champion: Champion) -> tuple[list[Check], list[str]]:
    theirs = champion.evaluation
    if not evaluation.get("machine") or not same_machine(evaluation, theirs):
        return [], [f"speed and memory are not compared with {champion.label}: measured on another machine"]
    notes = [f"speed was measured on a busy machine: {why}"] if (why := busy(evaluation)) else []
    cost, their_cost = evaluation["cost"], theirs["cost"]
    checks = []
    for name, ratio, sense in (
        ("decode_tokens_per_second", gate.min_speed_ratio, ">="),
        ("peak_resident_bytes", gate.max_memory_ratio, "<="),
    ):
        if math.isfinite(ratio) and ratio > 0 and their_cost.get(name) is not None:
            base = finite(their_cost[name])
            if base is None:
                notes.append(f"{name} is not compared with {champion.label}: it is {their_cost[name]} there")
                continue
            against = f"{ratio:g} × that of {champion.label}"
            checks.append(Check(name, cost.get(name), ratio * base, sense, against))
    return checks, notes


def _check(shown: str, pair: Pair, name: str, margin: float, champion: Champion, *, more: bool) -> Check:
    """Whether ours is proven, at 95 %, to be worse by less than the margin.

    The difference in the bad direction and ERRORS standard errors of it must fit into the margin. An error
    that is not known is that of independent samples, sqrt(a² + b²). `more` says that more is worse.
    """
    theirs, error = pair.theirs[name], pair.error
    if error is None:
        error = math.hypot(*(finite(side.get(f"{name}_se")) or 0.0 for side in (pair.ours, pair.theirs)))
    room = margin - ERRORS * error
    limit = theirs + room if more else theirs - room
    sign, back = ("+", "−") if more else ("−", "+")
    against = f"{theirs:.4g} of {champion.label} {sign} {margin:g} {back} {ERRORS:g} errors of {error:.2g}"
    against += f", on {pair.on}" if pair.on else ""
    return Check(shown, pair.ours.get(name), limit, "<=" if more else ">=", against)


def _refused(name: str, why: str, keys: str) -> Check:
    """A comparison that a margin demands and that cannot be made; `why` says what would make it possible."""
    return Check(name, None, math.nan, "", reason=f"{why}, or do without by {keys}")


def _demands(margin: float, *, more: bool) -> bool:
    """Whether a margin admits less than everything."""
    return math.isfinite(margin) and (more or margin < 1)
