"""Runs as a driver begins them: its children, and the record that lets its own be repeated."""

from __future__ import annotations

import json
import shlex
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Param

from slmflow.tracking import without_userinfo
from slmflow.workflow.checkout import COMMIT_TAG, DIRTY_TAG, FOLDER_TAG, PATCH_TAG, checkout, installed
from slmflow.workflow.closure import ROOT
from slmflow.workflow.liveness import HEARTBEAT_TAG, heartbeat
from slmflow.workflow.runs import PARENT_TAG
from slmflow.workflow.tags import KIND_TAG, NODE_TAG, STEP_TAG, key_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.workflow.item import Item

CLAIM_TAG = "slmflow.claim"
"""Of a child: a mark of the one request that made it."""
ARGUMENTS_TAG = "slmflow.arguments"
"""The words of a driver's command line, as JSON."""
JOB_TAG = "mlflow.databricks.runURL"
"""Of a run that MLflow's own Databricks backend carries out: the job's page."""
PATCH = "checkout.patch"
"""Artifact with what the project's folder had beside its commit."""
ENVIRONMENT = "installed.txt"
"""Artifact with every installed distribution as name==version."""
FROM_PARENT = (
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.source.type",
    "mlflow.source.git.commit",
    "mlflow.source.git.repoURL",
    "mlflow.project.backend",
)
"""Tags that a child run shares with its driver's, as `mlflow run` would set them."""


def create_child(parent: Run, item: Item, parameters: dict[str, str]) -> Run:
    """A running child run of a driver, found by its key from its first moment; the driver's heartbeat."""
    tags = {name: parent.data.tags[name] for name in FROM_PARENT if name in parent.data.tags}
    tags |= {
        PARENT_TAG: parent.info.run_id,
        "mlflow.project.entryPoint": item.node.step,
        KIND_TAG: "step",
        STEP_TAG: item.node.step,
        NODE_TAG: item.node.name,
        **key_tags(item.key),
        HEARTBEAT_TAG: heartbeat(),
        CLAIM_TAG: uuid.uuid4().hex,
    }
    client = MlflowClient()
    run = client.create_run(parent.info.experiment_id, tags=tags, run_name=item.name)
    _close_twins(client, run)
    params = [Param(name, value) for name, value in parameters.items() if value]
    client.log_batch(run.info.run_id, params=params)
    return run


def _close_twins(client: MlflowClient, run: Run) -> None:
    """End the runs that the same request has made.

    A server that dies between its work and its answer is asked again. The twin would be an earlier claim of
    a living driver, and that driver would wait for itself.
    """
    claim = f"tags.`{CLAIM_TAG}` = '{run.data.tags[CLAIM_TAG]}'"
    for twin in client.search_runs([run.info.experiment_id], claim):
        if twin.info.run_id != run.info.run_id:
            client.set_terminated(twin.info.run_id, status="KILLED")


def start_command(parent: Run, arguments: dict[str, str], step: str = "") -> str:
    """The command that a driver's run was started with, which also resumes it.

    `step` is the entry point where neither `mlflow run` nor the step itself has put it on the run yet.
    """
    tags = parent.data.tags
    words = ["mlflow", "run", *_project(tags)]
    entry = tags.get("mlflow.project.entryPoint") or tags.get(STEP_TAG) or step or "main"
    if entry != "main":
        words += ["-e", entry]
    if is_job(tags):
        words += ["-b", "databricks", "--backend-config", "databricks/backend.json"]
    words += ["--env-manager", tags.get("mlflow.project.env", "uv" if is_job(tags) else "local")]
    if parent.info.experiment_id != "0":
        # By its name: an id beside MLFLOW_EXPERIMENT_NAME, which may be exported, is refused by MLflow.
        words += ["--experiment-name", MlflowClient().get_experiment(parent.info.experiment_id).name]
    for key, value in arguments.items():
        words += ["-P", f"{key}={value}"] if value else []
    return shlex.join(words)


def is_job(tags: dict[str, str]) -> bool:
    """Whether a driver is a job that MLflow's Databricks backend submitted: its folder is gone by then."""
    return JOB_TAG in tags


def _project(tags: dict[str, str]) -> list[str]:
    """Where a driver's project is found again: a folder, a zip, or a git address with its commit."""
    source = without_userinfo(tags.get("mlflow.source.name", ""))
    place = source.removeprefix("file://").partition("#")[0].rstrip("/")
    if "://" in place or (source.startswith("file://") and place != str(ROOT) and not is_job(tags)):
        return [source, "-v", tags.get("mlflow.source.git.commit", "main")]  # its clone is gone by then
    if is_job(tags):
        return [f"<clone at {tags.get(COMMIT_TAG, 'its commit')}>" if place.endswith(".zip") else place]
    return [place if place.endswith(".zip") else str(ROOT)]


def arguments_of(driver: Run) -> dict[str, str]:
    """The words that a driver's run was started with."""
    words: dict[str, str] = json.loads(driver.data.tags.get(ARGUMENTS_TAG, "{}"))
    return words


def record_checkout() -> None:
    """Log on the active run what is needed to build this checkout and its environment again."""
    state = checkout()
    tags = {DIRTY_TAG: str(state.dirty).lower()}
    if state.commit:
        tags[COMMIT_TAG] = state.commit
    if state.below:
        tags[FOLDER_TAG] = state.below
    if state.dirty:
        tags[PATCH_TAG] = state.withheld or "logged"
        if not state.withheld:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / PATCH).write_bytes(state.patch)
                mlflow.log_artifact(str(Path(folder) / PATCH))
    mlflow.set_tags(tags)
    mlflow.log_text(installed(), ENVIRONMENT)
