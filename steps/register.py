"""Judge the candidates by the gate, register those that pass, and name the champion.

    mlflow run . -e register --env-manager local
    mlflow run . -e register --env-manager local -P onnx_run=<evaluate's id> -P pipeline_run=<evaluate's id>

Tiny, offline (without ids it makes and evaluates both candidates first):

    mlflow run . -e register --env-manager local -P model=tiny_phi3

Leaves `gate.json`: verdicts, and the versions with their aliases. Registering the same content again
changes nothing.
"""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient

from slmflow.config import GateMode, Promote
from slmflow.errors import SlmflowError
from slmflow.files import write_json
from slmflow.machine import available_memory
from slmflow.registry.admission import refuse_licence
from slmflow.registry.aliases import again_if_moved, repair, standing
from slmflow.registry.evidence import description_of, evidence_tags
from slmflow.registry.load_test import load_test
from slmflow.registry.names import registered_name
from slmflow.registry.relative import Measured
from slmflow.registry.versions import Content, Registered, register, registry_lock
from slmflow.workflow import runs
from slmflow.workflow.evidence import (
    digests_of,
    is_intact,
    measured_of,
    refuse_incomplete,
    verdict_on,
)
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.entities import Run

    from slmflow.registry.gate import Verdict
    from slmflow.registry.load_test import Loaded
    from slmflow.workflow.step import Context

CANDIDATES = {"onnx": "onnx_run", "pipeline": "pipeline_run"}
"""Candidate, which is also the suffix of its registered model, to the parameter with its evaluation."""


@dataclass(frozen=True)
class Candidate:
    """One evaluated model."""

    registered_name: str
    measured: Measured
    evaluate_run: Run
    logged_run: Run
    logged: dict[str, Any]
    model_id: str
    folder: Path
    """The LoggedModel's files."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """What was measured."""
        return self.measured.evaluation


def work(context: Context) -> None:
    """Judge first; nothing is registered unless every candidate may be."""
    given = [name for name, parameter in CANDIDATES.items() if parameter in context.upstream]
    candidates = {name: _candidate(context, name) for name in given}
    state = _State(context, candidates)
    state.decide(_champions(candidates))
    for candidate in candidates.values():
        refuse_incomplete(candidate.model_id, candidate.folder)
    # Side by side where memory holds all of them: each waits for a process of its own.
    needed = sum(
        candidate.evaluation["cost"].get("peak_resident_bytes", 0) for candidate in candidates.values()
    )
    with ThreadPoolExecutor(len(candidates) if needed < available_memory() / 2 else 1) as pool:
        tests = {name: pool.submit(_loaded, context, candidate) for name, candidate in candidates.items()}
        for name, test in tests.items():
            state.loaded[name] = test.result()
            print(f"  {name}: {state.loaded[name].words}", flush=True)
    again_if_moved(state.register_all)
    registered = state.registered
    if state.misses and context.config.gate.mode is GateMode.warn:
        print(f"  the gate was missed: {'; '.join(state.misses)}")
    for version in registered.values():
        alias = f" @{version.alias}" if version.alias else ""
        known = "" if version.created else " (was there already)"
        print(f"  {version.name} v{version.version}{alias}{known}")
        if version.rolled_back:
            print(
                f"  it was rolled back on {version.rolled_back} and stays so; to promote it all the same: "
                f"mlflow run . -e promote --env-manager local -P model={version.name} "
                f"-P version={version.version}"
            )


def _loaded(context: Context, candidate: Candidate) -> Loaded:
    return load_test(candidate.folder, candidate.evaluation["fingerprint"], context.config.gate)


def _candidate(context: Context, name: str) -> Candidate:
    parameter = CANDIDATES[name]
    evaluate_run = context.upstream[parameter]
    measured = measured_of(evaluate_run)
    if (evaluated := measured.evaluation["candidate"]) != name:
        raise SlmflowError(f"{parameter}: that run evaluated the {evaluated} candidate")
    logged_run = runs.upstream_of(evaluate_run, "logged_run")
    logged = runs.json_artifact(logged_run, "logged.json")
    refuse_licence(logged["licence"], context.config.gate)
    in_registry = registered_name(context.config.model.name, name, mlflow.get_registry_uri())
    model_id, folder = runs.model_of(logged_run)
    return Candidate(in_registry, measured, evaluate_run, logged_run, logged, model_id, folder)


def _champions(candidates: dict[str, Candidate]) -> dict[str, str | None]:
    client = MlflowClient()
    return {name: standing(client, c.registered_name).champion for name, c in candidates.items()}


class _State:
    """What was found out and done so far, as `gate.json` tells it."""

    def __init__(self, context: Context, candidates: dict[str, Candidate]) -> None:
        self._context, self._candidates = context, candidates
        self.verdicts: dict[str, Verdict] = {}
        self.loaded: dict[str, Loaded] = {}
        self.registered: dict[str, Registered] = {}

    def decide(self, seen: dict[str, str | None]) -> None:
        """Judge every candidate against the champions that were seen.

        Raises SlmflowError, gate.json logged, when the gate enforces a miss.
        """
        gate = self._context.config.gate
        self.verdicts = {
            name: verdict_on(c.measured, gate, c.registered_name, seen[name])
            for name, c in self._candidates.items()
        }
        if self.misses and gate.mode is GateMode.enforce:
            self._write()
            mlflow.log_artifact(str(self._context.outputs / "gate.json"))
            there = ", ".join(f"{v.name} v{v.version}" for v in self.registered.values())
            done = f"{there} was registered before, nothing else is" if there else "nothing is registered"
            raise SlmflowError(f"the gate was missed, {done}: {'; '.join(self.misses)}")

    @property
    def misses(self) -> list[str]:
        """The checks that did not pass, with their candidates."""
        return [
            f"{verdict.candidate}: {check}" for verdict in self.verdicts.values() for check in verdict.misses
        ]

    def register_all(self) -> None:
        """Under the locks: repair, judge against the champions of now, register."""
        gate = self._context.config.gate
        with contextlib.ExitStack() as locks:
            for candidate in self._candidates.values():  # in one order everywhere: no two wait for each other
                locks.enter_context(registry_lock(candidate.registered_name))
            for candidate in self._candidates.values():
                for line in repair(MlflowClient(), candidate.registered_name, is_intact):
                    print(f"  {line}")
            seen = _champions(self._candidates)
            self.decide(seen)
            for name, candidate in self._candidates.items():
                verdict = None if gate.mode is GateMode.off else self.verdicts[name]
                promotes = gate.promote is Promote.auto and (verdict is None or verdict.passed)
                content = _content(candidate, verdict, self._context)
                self.registered[name] = register(content, seen[name], is_intact, promotes=promotes)
            self._write()

    def _write(self) -> None:
        gate = self._context.config.gate
        outcome = {
            "mode": gate.mode.value,
            "promote": gate.promote.value,
            "load_test": {name: loaded.as_dict() for name, loaded in self.loaded.items()},
            "verdicts": {name: verdict.as_dict() for name, verdict in self.verdicts.items()},
            "registered": {name: version.as_dict() for name, version in self.registered.items()},
        }
        write_json(self._context.outputs / "gate.json", outcome)


def _content(candidate: Candidate, verdict: Verdict | None, context: Context) -> Content:
    active = mlflow.active_run()
    assert active is not None
    run_ids = {
        "evaluate_run": candidate.evaluate_run.info.run_id,
        "logged_run": candidate.logged_run.info.run_id,
        "register_run": active.info.run_id,
    }
    tags = evidence_tags(
        candidate.evaluation, candidate.logged, verdict, digests_of(candidate.evaluate_run), run_ids
    )
    experiment = candidate.evaluate_run.info.experiment_id
    return Content(
        candidate.registered_name,
        candidate.model_id,
        candidate.logged_run.info.run_id,
        tags,
        description_of(candidate.evaluation, candidate.logged, verdict, run_ids, experiment),
    )


if __name__ == "__main__":
    sys.exit(main("register"))
