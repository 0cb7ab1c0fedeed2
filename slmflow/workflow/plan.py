"""The plan: what a run will do with each step, and why, before anything is done."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from slmflow.artifacts import stored_json
from slmflow.compose import held_back
from slmflow.config import Promote, Verify
from slmflow.errors import SlmflowError
from slmflow.workflow.enough import too_little
from slmflow.workflow.estimate import estimate
from slmflow.workflow.fingerprint import (
    differences,
    ingredients,
    step_identity,
)
from slmflow.workflow.graph import Graph, Node, needed_for
from slmflow.workflow.item import Item, State
from slmflow.workflow.liveness import HEARTBEAT_TAG, is_alive
from slmflow.workflow.outputs import check
from slmflow.workflow.steps import STEPS
from slmflow.workflow.tags import FINGERPRINT, KIND_TAG, NODE_TAG, key_tag, upstream_tag

if TYPE_CHECKING:
    from slmflow.sweep import Variant
    from slmflow.workflow.lookup import Found, Store


def make_plan(step: str, variants: list[Variant], store: Store, graph: Graph) -> list[Item]:
    """Every step of every variant that an entry point needs, each after what it needs.

    Steps of two variants with the same key are one item. Where several variants register one model none
    promotes by itself. Nothing is written or launched.
    """
    items: list[Item] = []
    shared: dict[str, Item] = {}
    counts = Counter(variant.composition.config.model.name for variant in variants)
    swept = {name for name, count in counts.items() if count > 1}
    for variant in variants:
        composition = variant.composition
        with_pipeline = composition.base is not None or composition.config.export.exporter != "prebuilt"
        placed: dict[str, Item] = {}
        name = composition.config.model.name
        for node in needed_for(step, graph(with_pipeline)):
            needed = {parameter: placed[need.name] for parameter, need in node.needs.items()}
            promote = composition.config.gate.promote if node.step == "register" and name in swept else None
            item = _item(node, variant, needed, store, items, promote)
            if item.key in shared:
                placed[node.name] = shared[item.key]
                continue
            placed[node.name] = item
            items.append(item)
            if item.key:
                shared[item.key] = item
    return items


def _item(
    node: Node,
    variant: Variant,
    needed: dict[str, Item],
    store: Store,
    before: list[Item],
    promote: Promote | None,
) -> Item:
    taken = any(item.node.name == node.name for item in before)
    name = f"{node.name}[{variant.label}]" if taken else node.name
    composition = variant.composition if promote is None else held_back(variant.composition)
    item = Item(name, node, composition, needed, None, State.blocked, "", None, variant.label, promote)
    blocked = next((upstream for upstream in needed.values() if upstream.state is State.blocked), None)
    if blocked is not None:
        item.reason = f"needs {blocked.name}"
        return item
    try:
        identity = step_identity(node.step, composition)
    except SlmflowError as error:
        item.reason = str(error)
        return item
    item.pins = identity.pins
    upstream_keys = {parameter: upstream.key for parameter, upstream in needed.items()}
    item.parts = ingredients(STEPS[node.step], composition, upstream_keys, identity.content)
    settle(item, store)
    if item.state is State.run and node.step == "evaluate" and "reference_run" not in needed:
        item.note = estimate(item, store)
    return item


def settle(item: Item, store: Store) -> None:
    """Look for a run to reuse, and set the item's state, reason and run."""
    driver = item.composition.config.driver
    if not driver.cache:
        item.state, item.reason = State.run, "driver.cache=false"
        return
    found = [run for run in store.runs(key_tag(item.key), item.key) if run.tags.get(KIND_TAG) == "step"]
    disbelief = ""
    for run in found:
        if run.status != "FINISHED":
            continue
        reason = disbelieve(run, item, store, full=driver.verify is Verify.full)
        if reason is None:
            item.state, item.run_id = State.cached, run.run_id
            item.reason = f"run {run.run_id}"
            return
        disbelief = disbelief or f"{reason} (run {run.run_id})"
    for run in found:
        if run.status == "RUNNING" and is_alive(run.tags.get(HEARTBEAT_TAG)):
            item.state, item.run_id = State.wait, run.run_id
            where = json.loads(run.tags[HEARTBEAT_TAG])
            item.reason = (
                f"process {where['pid']} on {where['host'].split('/')[0]} is at it, run {run.run_id}"
            )
            return
    failed = next((run for run in found if run.status in ("FAILED", "KILLED")), None)
    item.state = State.run
    item.reason = disbelief or (f"did not finish in run {failed.run_id}" if failed else _changed(item, store))


def disbelieve(
    run: Found, item: Item, store: Store, *, full: bool = False, restamp: bool = False
) -> str | None:
    """Why a finished run cannot be reused, None if it can: its outputs, its model, its pin, the registry."""
    checked = check(run, store, full=full, restamp=restamp)
    if checked.reason:
        return checked.reason
    for parameter in STEPS[item.node.step].of_model:
        if parameter in item.upstream and (why := _another_model(run, parameter, item.upstream[parameter])):
            return why
    model = item.composition.config.model
    for name, pinned in {"source": model.source.digest, "adapter": model.adapter.digest}.items():
        if item.node.step == "fetch" and pinned and run.tags.get(f"slmflow.{name}.digest") != pinned:
            return f"its content is not what model.{name}.digest={pinned[:12]}… pins"
    if item.node.step == "evaluate":
        return too_little(run, item, store)
    return _registry_moved(run, item, store) if item.node.step == "register" else None


def _another_model(run: Found, parameter: str, upstream: Item) -> str | None:
    """Equal content in another LoggedModel: figures are logged on the model, versions made of it."""
    if upstream.state in (State.run, State.wait):
        return f"{upstream.name} is made anew"
    if run.tags.get(upstream_tag(parameter)) != upstream.run_id:
        return f"{upstream.name} was made anew"
    return None


def _registry_moved(run: Found, item: Item, store: Store) -> str | None:
    for version in stored_json(run.artifact_uri, "gate.json")["registered"].values():
        name, number, alias = version["name"], version["version"], version["alias"]
        if not store.has_version(name, number):
            return f"version {number} of {name} is gone"
        # The end of a sweep moves the aliases of all that it registered.
        if alias and item.swept_promote is None and (now := store.alias(name, alias)) != number:
            return f"{name}@{alias} is on {'no version' if now is None else f'version {now}'} now"
        logged = store.run(version["logged_run"])
        damage = "its run is gone" if logged is None else check(logged, store).reason
        if damage:
            return f"version {number} of {name}: {damage}"
    return None


def _changed(item: Item, store: Store) -> str:
    """Why no run has this key: the differences to the nearest one that finished."""
    nearest: list[str] | None = None
    for run in store.runs(NODE_TAG, item.node.name):
        if run.status == "FINISHED":
            try:
                before = stored_json(run.artifact_uri, FINGERPRINT)
            except (OSError, ValueError, SlmflowError):
                continue
            lines = differences(before, item.parts or {})
            if nearest is None or len(lines) < len(nearest):
                nearest = lines
    if nearest is None:
        return "never done here"
    return ", ".join(nearest[:3]) + (f" and {len(nearest) - 3} more" if len(nearest) > 3 else "")


def parameters_of(item: Item, ids: dict[str, str]) -> dict[str, str]:
    """The words of an item's step; `ids` are the runs of the items that it needs, by their names."""
    composition = item.composition
    return {
        "model": composition.choices["model"],
        "export": composition.choices["export"],
        "overrides": " ".join([composition.overrides, *item.pins]).strip(),
        **{parameter: ids[need] for parameter, need in item.needs.items()},
    }


def as_dict(items: list[Item]) -> list[dict[str, Any]]:
    """For `plan.json`."""
    return [
        {
            "name": item.name,
            "step": item.node.step,
            "state": item.state.value,
            "reason": item.reason,
            "run_id": item.run_id,
            "key": item.key,
            "needs": item.needs,
            "pins": item.pins,
        }
        for item in items
    ]
