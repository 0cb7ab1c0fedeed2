"""What a sweep comes to: its candidates side by side, and the recommended one promoted."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient

from slmflow.artifacts import stored_json
from slmflow.comparison.recommendation import recommend
from slmflow.errors import SlmflowError, one_line
from slmflow.tracking import raise_problem
from slmflow.workflow.evaluations import evaluation_of, log_comparison, overrides_of
from slmflow.workflow.evidence import table_of
from slmflow.workflow.item import Item, State
from slmflow.workflow.promotion import Recommended, promote_recommended

if TYPE_CHECKING:
    from slmflow.comparison.entry import Entry
    from slmflow.config import GateConfig
    from slmflow.workflow.evaluations import Found


@dataclass
class Conclusion:
    """The end of a sweep; empty for a run of one variant."""

    labels: dict[str, str] = field(default_factory=dict)
    """Run of `evaluate` to what its candidate is called."""
    said: list[str] = field(default_factory=list)
    """The recommendation, and what was promoted."""
    recommended: list[Recommended] = field(default_factory=list)
    gate: GateConfig | None = None


def compared(items: list[Item], notes: tuple[str, ...] = ()) -> Conclusion:
    """Leave the comparison of a sweep's candidates on the parent's run; see what it recommends.

    A comparison that fails is told and kept as `comparison_error.txt`: nothing is recommended then.
    """
    done = Conclusion()
    evaluated = {
        item.run_id: item
        for item in items
        if item.node.step == "evaluate" and item.run_id and item.state in (State.done, State.cached)
    }
    if len({item.variant for item in items}) < 2 or len(evaluated) < 2:
        return done
    registered = _registered(items)
    done.gate = _gate(registered[-1][0] if registered else next(iter(evaluated.values())))
    try:
        client = MlflowClient()
        runs = [client.get_run(run_id) for run_id in evaluated]
        found = [evaluation_of(run) for run in runs]
        words = {run.info.run_id: evaluated[run.info.run_id].variant or overrides_of(run) for run in runs}
        entries, _, sentence = log_comparison(found, words, done.gate, notes)
    except Exception as error:
        raise_problem(error)
        mlflow.log_text(traceback.format_exc(), "comparison_error.txt")
        done.said.append(f"the candidates were not compared, nothing is promoted: {one_line(error)}")
        return done
    done.labels = {entry.run_id: entry.label for entry in entries}
    done.said.append(sentence)
    done.recommended = recommended(registered, entries, found)
    return done


def promote_all(done: Conclusion) -> None:
    """Make what is recommended champion where the gate says so, and say it. Raises what promoting raises."""
    for one in done.recommended:
        assert done.gate is not None
        done.said += [f"  {line}" for line in promote_recommended(one, done.gate)]


Registering = tuple[Item, dict[str, Any]]
"""A swept register step and the versions of its `gate.json`, by candidate."""


def recommended(registered: list[Registering], entries: list[Entry], found: list[Found]) -> list[Recommended]:
    """The versions of the recommended ONNX candidate and of its pipeline; of each swept model."""
    tables = {run: (evaluation, table) for run, _, evaluation, table in found}
    chosen = []
    for model in dict.fromkeys(item.composition.config.model.name for item, _ in registered):
        mine = [pair for pair in registered if pair[0].composition.config.model.name == model]
        by_run = {item.upstream["onnx_run"].run_id: (item, versions) for item, versions in mine}
        own = [entry for entry in entries if entry.run_id in by_run]
        best, _ = recommend(own, _gate(mine[-1][0]))
        if best is None:
            continue
        item, versions = by_run[best.run_id]
        numbers: dict[str, set[str]] = {}
        for _, theirs in mine:
            for version in theirs.values():
                numbers.setdefault(version["name"], set()).add(version["version"])
        for candidate, version in versions.items():
            run_id = item.upstream[f"{candidate}_run"].run_id or ""
            others = frozenset(numbers[version["name"]] - {version["version"]})
            windows = table_of(MlflowClient().get_run(run_id), "windows.json")
            chosen.append(Recommended(version["name"], version["version"], *tables[run_id], others, windows))
    return chosen


def _registered(items: list[Item]) -> list[Registering]:
    """The swept register steps that registered something."""
    found = []
    for item in items:
        if item.swept_promote is None or item.run_id is None or item.state not in (State.done, State.cached):
            continue
        try:
            run = MlflowClient().get_run(item.run_id)
            versions = stored_json(run.info.artifact_uri, "gate.json")["registered"]
        except SlmflowError:
            continue
        if versions:
            found.append((item, versions))
    return found


def _gate(item: Item) -> GateConfig:
    """An item's gate as the user gave it."""
    gate = item.composition.config.gate
    return gate if item.swept_promote is None else replace(gate, promote=item.swept_promote)
