"""Runs as MLflow keeps them: whose they are, what they left, what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from slmflow.artifacts import folder_of, local_path, stored_json
from slmflow.errors import SlmflowError
from slmflow.files import read_json, sha256_of
from slmflow.packaging.weights import weights_of
from slmflow.workflow.lookup import open_store
from slmflow.workflow.outputs import (
    DAMAGED_TAG,
    INDEX,
    INDEX_TAG,
    MODEL,
    Index,
    check,
    index_digest,
    place_of,
)
from slmflow.workflow.plan import FINGERPRINT, KEY_TAG, KIND_TAG, STEP_TAG, key_tag, upstream_tag
from slmflow.workflow.steps import STEPS

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
    except MlflowException:
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


def store_name() -> str:
    """The tracking URI without user name, password or query."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        parts = urlsplit(uri)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    try:
        url = make_url(uri)
        return URL.create(
            url.drivername, host=url.host, port=url.port, database=url.database
        ).render_as_string()
    except ArgumentError:  # a folder, or a name such as databricks
        return uri


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

    The stored file itself where the store is local. Raises SlmflowError when it is not what the step
    left, and marks the run, so that it is not reused: the next run makes it again.
    """
    folder = local_path_of(run, path)
    files = {
        name: entry["sha256"]
        for name, entry in index_of(run)["files"].items()
        if name == path or name.startswith(f"{path}/")
    }
    if not files:
        raise _damaged(run, f"{path} is not in its index")
    for name, sha in files.items():
        place = folder / name.removeprefix(path).lstrip("/")
        if not place.is_file():
            raise _damaged(run, f"{name} is gone")
        if sha256_of(place) != sha:
            raise _damaged(run, f"{name} was altered")
    return folder


def local_path_of(run: Run, path: str) -> Path:
    """An artifact of a run as a local path, unchecked. Raises SlmflowError when the run does not have it."""
    try:
        return local_path(f"{run.info.artifact_uri}/{path}")
    except SlmflowError as error:
        if folder_of(run.info.artifact_uri) is None:  # perhaps only the way to it is broken
            raise SlmflowError(f"run {run.info.run_id}: {path} cannot be read: {error}; run again") from None
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
    folder = weights_of(model_id)
    for name, entry in index["files"].items():
        if not name.startswith(f"{MODEL}/"):
            continue
        place = place_of(name, folder, folder)
        if not place.is_file():
            raise _damaged(run, f"{name} is gone")
        if "sha256" in entry and sha256_of(place) != entry["sha256"]:
            raise _damaged(run, f"{name} was altered")
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


def record_upstream(ids: dict[str, str]) -> None:
    """Put the ids on the active run where `mlflow run` has not done so (a step run by hand)."""
    active = mlflow.active_run()
    assert active is not None
    for name, run_id in ids.items():
        if name not in MlflowClient().get_run(active.info.run_id).data.params:
            mlflow.log_param(name, run_id)


def is_made_up(name: str | None) -> bool:
    """Whether MLflow made the name up for a run that nobody named, e.g. angry-wolf-518."""
    predicate, _, rest = (name or "").partition("-")
    noun, _, number = rest.partition("-")
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdigit()
