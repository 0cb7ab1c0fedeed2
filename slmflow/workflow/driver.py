"""The driver: reuses what is there, launches the rest as child runs, and reports on the parent."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import mlflow
from mlflow import MlflowClient

from slmflow.backends import Backend, Child, backend_of
from slmflow.errors import SlmflowError
from slmflow.registry.admission import refuse_early, refuse_licence
from slmflow.tracking import is_outage, last_words
from slmflow.workflow import launch, report, runs
from slmflow.workflow.beforehand import refuse_beforehand
from slmflow.workflow.ending import (
    close_children,
    interruptions_held_back,
    last_line,
    reap,
    stop,
    warn_of_private_files,
)
from slmflow.workflow.item import Item, State
from slmflow.workflow.liveness import HEARTBEAT_TAG, beating, is_alive, remove_scratch
from slmflow.workflow.locks import held
from slmflow.workflow.lookup import open_store
from slmflow.workflow.plan import as_dict, disbelieve, make_plan, parameters_of, settle
from slmflow.workflow.tags import KIND_TAG, key_tag
from slmflow.workflow.terminal import Terminal

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.sweep import Variant
    from slmflow.workflow.graph import Graph
    from slmflow.workflow.lookup import Store

POLL_SECONDS = 0.05
WAIT_SECONDS = 1.0
"""Between two looks at a step that another driver is at."""
RESTARTS = 1
"""How often a step is started again that ended because the tracking server did not answer it."""
RESTART_SECONDS = 15.0
"""Before the first such start, twice that before the second, and so on."""


def drive(step: str, variants: list[Variant], arguments: dict[str, str], parent: Run, graph: Graph) -> None:
    """Bring every step that `step` needs to its end, reusing what finished before.

    Raises SlmflowError when a step fails or is blocked, after the commands that resume were printed.
    """
    first = variants[0].composition
    mlflow.log_params({f"choice.{group}": name for group, name in sorted(first.choices.items())})
    os.environ.setdefault("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    # The registry URI is not handed down by MLflow, unlike the tracking URI.
    os.environ.setdefault("MLFLOW_REGISTRY_URI", mlflow.get_registry_uri())
    if step == "register":
        for variant in variants:
            refuse_early(variant.composition.config, mlflow.get_registry_uri())
    with beating(parent.info.run_id):
        store = open_store(parent.info.experiment_id)
        reap(parent)
        if launch.is_job(parent.data.tags):
            warn_of_private_files()
        items = make_plan(step, variants, store, graph)
        what = f"export {first.choices['export']}" if len(variants) == 1 else f"{len(variants)} variants"
        print(f"slmflow {step}: {first.config.model.name}, {what}, {len(items)} steps", flush=True)
        for line in (*variants[0].left_out, *(item.line for item in items)):
            print(f"  {line}", flush=True)
        for pin in dict.fromkeys(pin for item in items for pin in item.pins):
            print(f"  this run holds to {pin}; -P {pin} stays there", flush=True)
        mlflow.log_dict(as_dict(items), runs.PLAN)  # so that gc sees what a running driver stands on
        refuse_beforehand(items)
        resume = f"  to go on where it stopped:\n    {launch.start_command(parent, arguments, step)}"
        try:
            backend = backend_of(first.config.backend)
            driver = Driver(items, store, parent, backend, keep_going=len(variants) > 1)
            driver.run()
        except BaseException as error:
            with last_words(error):
                mlflow.log_dict(as_dict(items), runs.PLAN)
                report.finish(parent, items, whole=False, notes=variants[0].left_out)
            if isinstance(error, Exception):
                print(resume, file=sys.stderr, flush=True)
            raise
        mlflow.log_dict(as_dict(items), runs.PLAN)
        try:
            report.finish(parent, items, whole=True, notes=variants[0].left_out)
        except Exception:  # a registry that refuses the promotion, above all
            print(resume, file=sys.stderr, flush=True)
            raise
        print(f"run {parent.info.run_id}", flush=True)
        if driver.failed:
            print(resume, file=sys.stderr, flush=True)
            raise SlmflowError("; ".join(f"{name} failed: {why}" for name, why in driver.failed.items()))


class Driver:
    """The loop over the items of one plan."""

    def __init__(
        self, items: list[Item], store: Store, parent: Run, backend: Backend, *, keep_going: bool
    ) -> None:
        self.items = items
        self.failed: dict[str, str] = {}
        """Item to the one line that says why."""
        self._store = store
        self._parent = parent
        self._backend = backend
        self._keep_going = keep_going
        self._parallel = items[0].composition.config.driver.parallel if items else 1
        self._ids: dict[str, str] = {}
        self._running: dict[str, tuple[Item, Run, Child, float]] = {}
        self._restarts: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._look_again = 0.0
        self._terminal = Terminal(max(len(item.name) for item in items))

    def run(self) -> None:
        """Until nothing runs and nothing more can."""
        try:
            while self._step():
                time.sleep(POLL_SECONDS)
        except BaseException as error:
            with last_words(error):
                self._stop_children()
            raise

    def _step(self) -> bool:
        for name in list(self._running):
            self._look_at(name)
        ready = self._ready()
        look = time.monotonic() >= self._look_again
        for item in ready:
            if item.state is State.wait and look:
                settle(item, self._store)
            if item.state is State.cached:
                self._reuse(item)
            elif item.state is State.run and len(self._running) < self._parallel and self._is_due(item):
                self._launch(item)
        if look:
            self._look_again = time.monotonic() + WAIT_SECONDS
        return bool(self._running or self._ready())

    def _ready(self) -> list[Item]:
        taken = {*self._ids, *self._running}
        return [item for item in self.items if item.name not in taken and self._is_ready(item)]

    def _is_ready(self, item: Item) -> bool:
        if item.name in self.failed or (self.failed and not self._keep_going):
            return False
        if item.node.step == "register":
            # One after another in the order of the variants: each moves the same aliases.
            before = self.items[: self.items.index(item)]
            open_ = [other for other in before if other.node.step == "register" and self._is_open(other)]
            if open_:
                return False
        return all(need in self._ids for need in item.needs.values())

    def _is_due(self, item: Item) -> bool:
        return time.monotonic() >= self._not_before.get(item.name, 0.0)

    def _is_open(self, item: Item) -> bool:
        """Whether an item may still come to its end."""
        if item.name in self._ids or item.name in self.failed:
            return False
        return all(self._is_open(need) or need.name in self._ids for need in item.upstream.values())

    def _reuse(self, item: Item) -> None:
        assert item.run_id is not None
        found = self._store.run(item.run_id)
        if found is not None and disbelieve(found, item, self._store, restamp=True) is None:
            self._terminal.line(f"✓ {item.name}  reused, run {item.run_id}")
            self._admit(item, item.run_id)
        else:
            settle(item, self._store)

    def _admit(self, item: Item, run_id: str) -> None:
        """Let others take an item's run, unless it shows what could not be registered at the end."""
        goals = (one for one in self.items if one.node.step == "register" and one.stands_on(item))
        if item.node.step == "fetch" and (goal := next(goals, None)):
            try:
                licence = runs.json_artifact(MlflowClient().get_run(run_id), "manifest.json")["licence"]
                refuse_licence(licence, goal.composition.config.gate)
            except SlmflowError as error:
                item.state, self.failed[item.name] = State.failed, str(error)
                self._terminal.line(f"✗ {item.name}  {error}", error=True)
                return
        self._ids[item.name] = run_id

    def _launch(self, item: Item) -> None:
        """Claim the step and start it, unless another driver has it or somebody measures."""
        slot = self._backend.slot()
        if slot is None:
            return
        cached = item.composition.config.driver.cache
        with held(f"{self._store_name()} {item.key}"):
            if cached:
                settle(item, self._store)
            if item.state is not State.run:
                slot.release()
                return
            parameters = parameters_of(item, self._ids)
            run = launch.create_child(self._parent, item, parameters)
        if cached and (first := self._earlier_claim(item, run)):
            MlflowClient().set_terminated(run.info.run_id, status="KILLED")
            item.state, item.run_id = State.wait, first
            slot.release()
            return
        item.run_id = run.info.run_id
        self._terminal.line(f"● {item.name}  {item.reason}, run {run.info.run_id}")
        with interruptions_held_back():
            child = slot.start(run, item.node.step, parameters, report.log_of(run))
            self._running[item.name] = (item, run, child, time.time())
        MlflowClient().set_tag(run.info.run_id, HEARTBEAT_TAG, child.heartbeat())

    def _store_name(self) -> str:
        return f"{runs.store_name()} {self._parent.info.experiment_id}"

    def _earlier_claim(self, item: Item, mine: Run) -> str | None:
        """Another driver's claim, on another host, that came first: the lock reaches this host only."""
        rank = (mine.info.start_time, mine.info.run_id)
        for other in self._store.runs(key_tag(item.key), item.key):
            if other.tags.get(KIND_TAG) == "step" and other.status == "RUNNING":
                earlier = (other.start_time, other.run_id) < rank
                if earlier and is_alive(other.tags.get(HEARTBEAT_TAG)):
                    return other.run_id
        return None

    def _look_at(self, name: str) -> None:
        item, run, child, started = self._running[name]
        status = child.poll()
        self._terminal.left = self._left()
        self._terminal.output(name, child.new_output(), last=status is not None)
        if status is None:
            return
        del self._running[name]
        client = MlflowClient()
        now = client.get_run(run.info.run_id)
        report.keep_log(now, child.log)
        if status == 0 and now.info.status == "FINISHED":
            item.state = State.done
            ended = f"{len(self._ids) + 1} of {len(self.items)} steps"
            took = f"{time.time() - started:.1f} s"
            self._terminal.line(f"✓ {name}  {took}, run {run.info.run_id} ({ended})")
            self._admit(item, run.info.run_id)
            return
        if now.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, status="FAILED")
        remove_scratch(run.info.artifact_uri)
        told = now.data.tags.get(runs.ERROR_TAG) or last_line(child.log)
        cause = now.data.tags.get(runs.ERROR_TAG) or child.ending(status)
        if runs.ERROR_TAG not in now.data.tags:
            client.set_tag(run.info.run_id, runs.ERROR_TAG, cause)
        done = self._restarts.get(name, 0)
        if is_outage(told) and done < RESTARTS:
            pause = RESTART_SECONDS * (done + 1)
            self._restarts[name], self._not_before[name] = done + 1, time.monotonic() + pause
            self._terminal.line(f"↻ {name}  {told}; started again in {pause:.0f} s", error=True)
            return
        item.state, self.failed[name] = State.failed, cause
        self._terminal.line(f"✗ {name}  {cause}\n  its log: {report.log_place(now, child.log)}", error=True)

    def _left(self) -> str:
        """What remains, for people."""
        open_ = [one.name for one in self.items if one.name not in (*self._ids, *self._running, *self.failed)]
        then = f", then {', '.join(open_)}" if open_ else ""
        return f"{len(self._ids)} of {len(self.items)} steps done{then}"

    def _stop_children(self) -> None:
        """Interrupted: end the children, and leave no run of theirs RUNNING."""
        children = [(item.name, run, child) for item, run, child, _ in self._running.values()]
        stop(children, partial(self._terminal.line, error=True))
        # The interruption may have come between making a run and starting its process.
        close_children(self._parent)
