"""Runs as MLflow keeps them: whose they are, what they left, what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from slmflow.artifacts import folder_of, local_path, stored_json
from slmflow.errors import DamagedError, SlmflowError
from slmflow.files import read_json, sha256_of
from slmflow.packaging.weights import location_of, refuse_weightless
from slmflow.tracking import raise_problem
from slmflow.tracking import store_name as store_name  # others ask for it here
from slmflow.workflow.lookup import open_store
from slmflow.workflow.outputs import (
    DAMAGED_TAG,
    INDEX,
    INDEX_TAG,
    MODEL,
    Index,
    check,
    index_digest,
    listed,
)
from slmflow.workflow.steps import STEPS
from slmflow.workflow.tags import FINGERPRINT, KEY_TAG, KIND_TAG, STEP_TAG, key_tag, upstream_tag

if TYPE_CHECKING:
    from mlflow.entities import Run

ERROR_TAG = "slmflow.error"
"""The one line that says why the run failed."""
WORD_TAGS = {"model": "slmflow.model", "export": "slmflow.export", "overrides": "slmflow.overrides"}
"""What the configuration was composed from, so that a later step can compose the same."""
PARENT_TAG = "mlflow.parentRunId"
PLAN = "plan.json"
"""Artifact of a driver's run: its steps, what became of each, and the runs that it made or reused."""


def upstream(parameter: str, run_id: str) -> Run:
    """The finished step run that an upstream parameter names; a driver's id stands for its step's.

    Raises SlmflowError when the run does not exist, is of another step, or has not finished.
    """
    steps = next(step.inputs[parameter] for step in STEPS.values() if parameter in step.inputs)
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"{parameter}={run_id}: no such run in {store_name()}") from None
    if run.data.tags.get(KIND_TAG) == "driver":
        found = [item["run_id"] for item in items_of(run) if item["step"] in steps and item["run_id"]]
        if len(found) != 1:
            raise SlmflowError(
                f"{parameter}={run_id}: a driver's run with {len(found)} {' or '.join(steps)} steps; "
                "give the id of the step's own run"
            )
        run = MlflowClient().get_run(found[0])
    step = run.data.tags.get(STEP_TAG, "no step of this project")
    if step not in steps:
        raise SlmflowError(f"{parameter}={run_id}: that run is {step}, but {' or '.join(steps)} is needed")
    if run.info.status != "FINISHED":
        raise SlmflowError(f"{parameter}={run_id}: that {step} run is {run.info.status}, not FINISHED")
    if run.info.lifecycle_stage != "active":
        raise SlmflowError(
            f"{parameter}={run_id}: that {step} run was deleted; "
            f"`mlflow runs restore --run-id {run.info.run_id}` brings it back"
        )
    return run


def children(parent: Run) -> list[Run]:
    """The child runs of a driver's run, oldest first."""
    found = MlflowClient().search_runs(
        [parent.info.experiment_id],
        filter_string=f"tags.{PARENT_TAG} = '{parent.info.run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    return list(found)


def items_of(driver: Run) -> list[dict[str, Any]]:
    """The steps of a driver's run with the runs that it made or reused; none if it never got so far."""
    try:
        items: list[dict[str, Any]] = stored_json(driver.info.artifact_uri, PLAN)
    except SlmflowError:
        return []
    return items


def artifact(run: Run, path: str) -> Path:
    """An artifact of a step's run as a local path, every byte checked against the run's index.

    The stored file itself where the store is local, else a link to what was downloaded once. Raises
    SlmflowError when it is not what the step left, and marks the run, so that it is not reused: the next
    run makes it again.
    """
    folder = folder_of(run.info.artifact_uri)
    if folder is not None:
        local_path_of(run, path)
    files = {
        name: entry["sha256"]
        for name, entry in index_of(run)["files"].items()
        if name == path or name.startswith(f"{path}/")
    }
    if not files:
        raise _damaged(run, f"{path} is not in its index")
    if folder is None:
        return _downloaded(run, run.info.artifact_uri, files) / path
    _check(run, folder, files)
    return folder / path


def _check(run: Run, folder: Path, digests: dict[str, str]) -> None:
    for name, sha in digests.items():
        if not (folder / name).is_file():
            raise _damaged(run, f"{name} is gone")
        if sha256_of(folder / name) != sha:
            raise _damaged(run, f"{name} was altered")


def _downloaded(run: Run, uri: str, digests: dict[str, str]) -> Path:
    from slmflow import downloads

    try:
        return downloads.tree(uri, digests)
    except DamagedError as error:
        raise _damaged(run, str(error)) from None


def local_path_of(run: Run, path: str) -> Path:
    """An artifact of a run as a local path, unchecked. Raises SlmflowError when the run does not have it."""
    try:
        return local_path(f"{run.info.artifact_uri}/{path}")
    except DamagedError:
        raise _damaged(run, f"{path} is gone") from None


def reference_manifest(fetch: Run) -> dict[str, Any]:
    """The manifest of the weights that candidates are compared with: the base's where there is one."""
    name = "base_manifest.json" if "base_manifest.json" in index_of(fetch)["files"] else "manifest.json"
    manifest: dict[str, Any] = json_artifact(fetch, name)
    return manifest


def huggingface(fetch: Run) -> Path:
    """Those weights as a Hugging Face folder. Raises SlmflowError where none could be made of them."""
    manifest = reference_manifest(fetch)
    if manifest["huggingface"] is None:
        found = ", ".join(sorted(manifest["files"])[:6])
        raise SlmflowError(
            f"source holds neither config.json with safetensors nor one GGUF file: it holds {found}"
        )
    return artifact(fetch, manifest["huggingface"])


_indexes: dict[str, Index] = {}


def index_of(run: Run) -> Index:
    """A step run's index of outputs, read once. Raises SlmflowError when it is not what the step left."""
    run_id = run.info.run_id
    if run_id not in _indexes:
        index: Index = read_json(local_path_of(run, INDEX))
        if index_digest(index) != run.data.tags.get(INDEX_TAG):
            raise _damaged(run, f"its {INDEX} was altered")
        _indexes[run_id] = index
    return _indexes[run_id]


def model_of(run: Run) -> tuple[str, Path]:
    """Id and local folder of the LoggedModel that a step logged, every byte checked against its index."""
    index = index_of(run)
    model_id = index["model"]["id"]
    if open_store(run.info.experiment_id).model_location(model_id) is None:
        raise _damaged(run, f"its LoggedModel {model_id} is gone")
    digests = {
        name.removeprefix(f"{MODEL}/"): entry["sha256"]
        for name, entry in index["files"].items()
        if name.startswith(f"{MODEL}/") and "sha256" in entry
    }
    location = location_of(model_id)
    folder = folder_of(location)
    if folder is None:
        sizes = listed(location)  # what is on this host says nothing of the store
        if gone := [name for name in digests if name not in sizes]:
            raise _damaged(run, f"{MODEL}/{gone[0]} is gone")
        folder = _downloaded(run, location, digests)
    else:
        _check(run, folder, digests)
    refuse_weightless(model_id, folder)
    return model_id, folder


def _damaged(run: Run, what: str) -> SlmflowError:
    if KEY_TAG in run.data.tags:
        MlflowClient().set_tag(run.info.run_id, DAMAGED_TAG, what)
    step = run.data.tags.get(STEP_TAG)
    return SlmflowError(f"{step} run {run.info.run_id}: {what}; run again: that step is then made anew")


def json_artifact(run: Run, path: str) -> Any:
    """A JSON artifact of a run."""
    return read_json(artifact(run, path))


def upstream_of(run: Run, parameter: str) -> Run:
    """The run that another run took as its upstream, or one with the same key where that is not whole.

    For a LoggedModel it is that very run: the same content under another id would not be the same model.
    """
    run_id = run.data.tags.get(upstream_tag(parameter))
    if run_id is None:
        raise SlmflowError(f"run {run.info.run_id} does not say which {parameter} it took")
    step = STEPS[run.data.tags[STEP_TAG]]
    if parameter not in step.of_model:
        key = read_json(local_path_of(run, FINGERPRINT))["upstream"].get(parameter)
        store = open_store(run.info.experiment_id)
        found = (
            [other for other in store.runs(key_tag(key), key) if other.status == "FINISHED"] if key else []
        )
        found.sort(key=lambda other: other.run_id != run_id)  # the recorded one first
        run_id = next((other.run_id for other in found if check(other, store).reason is None), run_id)
    return upstream(parameter, run_id)


def words_of(run: Run) -> dict[str, str]:
    """The words that a run's configuration was composed from."""
    return {word: run.data.tags.get(tag, "") for word, tag in WORD_TAGS.items()}


def record_params(run: Run, params: dict[str, str]) -> None:
    """Put params on a run as it began, where `mlflow run` or a driver has not (a step run by hand).

    MLflow refuses a param that is there with another value, and `mlflow run` logs values in a shell's quotes.
    """
    missing = [Param(name, value) for name, value in params.items() if name not in run.data.params]
    if missing:
        MlflowClient().log_batch(run.info.run_id, params=missing)


def is_made_up(name: str | None) -> bool:
    """Whether MLflow made the name up for a run that nobody named, e.g. angry-wolf-518."""
    predicate, _, rest = (name or "").partition("-")
    noun, _, number = rest.partition("-")
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdigit()
