"""What a registered version stands on: its runs, its evaluation, its model, as they are now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from slmflow.config import GateMode
from slmflow.errors import SlmflowError, first_line
from slmflow.files import read_json
from slmflow.packaging.weights import MLMODEL
from slmflow.quality.alike import same_items, same_set, same_source, same_text
from slmflow.registry.common import windows_in_common
from slmflow.registry.gate import Verdict, judge
from slmflow.registry.relative import Champion, Measured
from slmflow.registry.versions import registry_lock
from slmflow.tracking import raise_problem
from slmflow.workflow import runs
from slmflow.workflow.lookup import open_store
from slmflow.workflow.outputs import check
from slmflow.workflow.tags import FINGERPRINT, upstream_tag

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from slmflow.config import GateConfig


def is_intact(version: ModelVersion) -> bool:
    """Whether a version's model still holds what was logged; checked by the index of the run that did.

    Raises UnavailableError where the store cannot be asked: a version is not passed over for that.
    """
    try:
        runs.model_of(mlflow.get_run(version.run_id))
    except (SlmflowError, MlflowException) as error:
        raise_problem(error)
        return False
    return True


def champion_of(
    name: str, number: str, candidate: Measured | None = None
) -> tuple[Champion | None, list[str]]:
    """A version's evaluation, found by its tag `evaluate_run`; or None and why it cannot be compared with.

    Where it has nothing in common with the candidate's, a later evaluation of the model that has is taken.
    A champion whose model is gone cannot be served: whatever passes by itself is better.
    """
    try:
        version = MlflowClient().get_model_version(name, number)
        run_id = version.tags.get("evaluate_run")
        if run_id is None:
            return None, [f"champion v{number} has no evaluate_run: nothing is compared with it"]
        found = measured_of(mlflow.get_run(run_id))
        if candidate is not None and not _comparable(candidate, found):
            found = _later_evaluation(str(version.run_id), candidate) or found
    except (SlmflowError, MlflowException) as error:
        raise_problem(error)
        return None, [f"the evaluation of champion v{number} cannot be read: nothing is compared with it"]
    if not is_intact(version):
        return None, [f"the model of champion v{number} is gone or damaged: nothing is compared with it"]
    return Champion(number, found.evaluation, found.items, found.windows, str(version.run_id)), []


def _comparable(one: Measured, other: Measured) -> bool:
    """Whether two evaluations have windows and items in common, where they are to be compared by them."""
    ours, theirs = one.evaluation, other.evaluation
    windows = same_text(ours, theirs) or bool(windows_in_common(one.windows, other.windows))
    return (windows or not same_source(ours, theirs)) and (same_items(ours, theirs) or same_set(ours, theirs))


def _later_evaluation(logged_run: str, candidate: Measured) -> Measured | None:
    """The newest finished evaluation of a logged model that can be compared with a candidate's."""
    logged = mlflow.get_run(logged_run)
    store = open_store(logged.info.experiment_id)
    for found in store.runs(upstream_tag("logged_run"), logged_run):
        if found.status != "FINISHED" or check(found, store).reason is not None:
            continue
        measured = measured_of(mlflow.get_run(found.run_id))
        if _comparable(candidate, measured):
            return measured
    return None


def verdict_on(candidate: Measured, gate: GateConfig, name: str, number: str | None) -> Verdict:
    """The gate's verdict on a candidate, against the champion of a registered model where there is one."""
    champion: Champion | None = None
    notes: list[str] = []
    if number is not None and gate.mode is not GateMode.off:
        champion, notes = champion_of(name, number, candidate)
    verdict = judge(candidate.evaluation, gate, champion, candidate.items, candidate.windows)
    return Verdict(verdict.candidate, verdict.checks, verdict.notes + notes)


def measured_of(evaluate_run: Run) -> Measured:
    """What a run of `evaluate` found, with the tables that it left."""
    tables = table_of(evaluate_run, "items.json"), table_of(evaluate_run, "windows.json")
    return Measured(runs.json_artifact(evaluate_run, "evaluation.json"), *tables)


def table_of(evaluate_run: Run, name: str) -> dict[str, Any] | None:
    """`items.json` or `windows.json` of a run of `evaluate`; None where that part was not wanted."""
    if name not in runs.index_of(evaluate_run)["files"]:
        return None
    table: dict[str, Any] = runs.json_artifact(evaluate_run, name)
    return table


def digests_of(evaluate_run: Run) -> dict[str, str]:
    """Digests of what a model was measured on: the text, the task items, and datasets that MLflow knows."""
    identity = read_json(runs.local_path_of(evaluate_run, FINGERPRINT))["identity"]
    digests = {f"{name}_digest": str(value) for name, value in identity.items() if value != "none"}
    for entry in evaluate_run.inputs.dataset_inputs if evaluate_run.inputs else []:
        digests[f"dataset.{entry.dataset.name}"] = entry.dataset.digest
    return digests


def refuse_incomplete(model_id: str, folder: Path) -> None:
    """Raise SlmflowError when a LoggedModel, given its folder, has no signature of inputs and outputs.

    Unity Catalog demands the signature; without it a server checks nothing.
    """
    signature = Model.load(str(folder / MLMODEL)).signature
    if signature is None or signature.inputs is None or signature.outputs is None:
        raise SlmflowError(
            f"models:/{model_id}: its signature has no inputs or no outputs; log it again with both"
        )


@contextlib.contextmanager
def registered_model(name: str) -> Iterator[tuple[MlflowClient, str]]:
    """A registered model that a command names, locked on this host; the registry's refusals in one line.

    Raises SlmflowError when no such model is registered.
    """
    client = MlflowClient()
    try:
        known = sorted(model.name for model in client.search_registered_models()) if not name else []
        if not name:
            raise SlmflowError(f"model= is missing: registered are {', '.join(known) or 'none'}")
        client.get_registered_model(name)
        with registry_lock(name):
            yield client, name
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"model={name}: {first_line(error)}") from None
