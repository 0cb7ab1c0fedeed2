"""Runs as MLflow keeps them: whose they are, what they left, what became of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from slmflow.artifacts import local_path
from slmflow.errors import SlmflowError
from slmflow.files import read_json
from slmflow.workflow.graph import INPUT_STEPS

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND_TAG = "slmflow.kind"
"""`driver` for a run that launches steps, `step` for a step."""
STEP_TAG = "slmflow.step"
"""The entry point whose work the run did."""
ERROR_TAG = "slmflow.error"
"""The one line that says why the run failed."""
WORD_TAGS = {"model": "slmflow.model", "export": "slmflow.export", "overrides": "slmflow.overrides"}
"""What the configuration was composed from, so that a later step can compose the same."""
PARENT_TAG = "mlflow.parentRunId"
ROOT = Path(__file__).resolve().parent.parent.parent


def upstream(parameter: str, run_id: str) -> Run:
    """The finished step run that an upstream parameter names; a driver's id stands for its child.

    Raises SlmflowError when the run does not exist, is of another step, or has not finished.
    """
    steps = INPUT_STEPS[parameter]
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException:
        raise SlmflowError(f"{parameter}={run_id}: no such run in {store_name()}") from None
    if run.data.tags.get(KIND_TAG) == "driver":
        candidates = [child for child in children(run) if child.data.tags.get(STEP_TAG) in steps]
        if len(candidates) != 1:
            raise SlmflowError(
                f"{parameter}={run_id}: a driver's run with {len(candidates)} {' or '.join(steps)} steps; "
                "give the id of the step's own run"
            )
        run = candidates[0]
    step = run.data.tags.get(STEP_TAG, "no step of this project")
    if step not in steps:
        raise SlmflowError(f"{parameter}={run_id}: that run is {step}, but {' or '.join(steps)} is needed")
    if run.info.status != "FINISHED":
        raise SlmflowError(f"{parameter}={run_id}: that {step} run is {run.info.status}, not FINISHED")
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


def artifact(run: Run, path: str) -> Path:
    """An artifact of a run as a local path: the stored file itself where the store is local.

    Raises SlmflowError when the run does not have it.
    """
    try:
        return local_path(f"{run.info.artifact_uri}/{path}")
    except SlmflowError as error:
        step = run.data.tags.get(STEP_TAG)
        raise SlmflowError(f"{step} run {run.info.run_id} lacks {path} ({error}): run it again") from None


def json_artifact(run: Run, path: str) -> Any:
    """A JSON artifact of a run."""
    return read_json(artifact(run, path))


def upstream_of(run: Run, parameter: str) -> Run:
    """The run that another run took as its upstream, from its recorded parameters."""
    run_id = run.data.params.get(parameter, "").strip("'")
    if not run_id:
        raise SlmflowError(f"run {run.info.run_id} does not say which {parameter} it took")
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


def tree_is_dirty() -> bool | None:
    """Whether the project's folder differs from its commit; None where it is no git checkout.

    MLflow records the commit, but not that the tree has other content.
    """
    command = ["git", "status", "--porcelain"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None
    return bool(result.stdout.strip()) if result.returncode == 0 else None
