"""Steps as Databricks jobs, one run of a job each, by the Jobs API."""

from __future__ import annotations

import base64
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.errors import NotFound
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.workspace import ImportFormat

from slmflow.backends.archive import Archive, project_archive
from slmflow.backends.job import Job
from slmflow.backends.service import said
from slmflow.backends.submission import ARCHIVE, REQUIREMENTS, SCRIPT, StepRun
from slmflow.errors import SlmflowError
from slmflow.workflow.closure import ROOT

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.config.backend import DatabricksBackendConfig

QUICK_SECONDS = 20
"""For one look at a job: it is looked at again, and others are waiting for theirs."""


class DatabricksBackend:
    """A workspace with the project's code in it; it is a slot itself, as room is the workspace's to give."""

    def __init__(self, config: DatabricksBackendConfig) -> None:
        """Raises SlmflowError where a job could not reach the tracking store."""
        check_store()
        profile_of(config)
        self.config = config

    @cached_property
    def client(self) -> WorkspaceClient:
        """Of patience: it repeats a request for five minutes.

        Raises SlmflowError in one line where the workspace cannot be reached.
        """
        profile = profile_of(self.config)
        try:
            client = WorkspaceClient(profile=profile, product="slmflow", product_version="1.0")
            client.current_user.me()
        except (DatabricksError, ValueError, OSError) as error:
            raise SlmflowError(
                f"Databricks workspace of {profile or 'DATABRICKS_HOST'}: {said(error)}; "
                "check DATABRICKS_HOST and DATABRICKS_TOKEN, or name a profile of ~/.databrickscfg by "
                "backend.profile"
            ) from None
        return client

    @cached_property
    def jobs_client(self) -> WorkspaceClient:
        """To look at jobs, one after the other: it gives a request up soon."""
        settings = Config(
            profile=profile_of(self.config),
            product="slmflow",
            product_version="1.0",
            retry_timeout_seconds=QUICK_SECONDS,
        )
        return WorkspaceClient(config=settings)

    @cached_property
    def folder(self) -> str:
        """The workspace folder that holds this state of the code, brought there unless it is there.

        Raises SlmflowError when it does not arrive.
        """
        archive = project_archive()
        try:
            folder = code_folder(self.config, str(self.client.current_user.me().user_name), archive)
            self._upload(folder, archive)
        except (DatabricksError, OSError) as error:
            raise SlmflowError(f"the code could not be uploaded: {said(error)}; run again") from None
        return folder

    def slot(self) -> DatabricksBackend:
        """Always: `driver.parallel` bounds the jobs. The code is brought there before the first."""
        _ = self.folder
        return self

    def release(self) -> None:
        """Nothing was taken."""

    def start(self, run: Run, step: str, parameters: dict[str, str], log: Path) -> Job:
        """The job is submitted at the first look at it."""
        return Job(self, step_run(run.info.run_id, run.info.experiment_id, step, parameters), log)

    def _upload(self, folder: str, archive: Archive) -> None:
        requirements = (ROOT / REQUIREMENTS).read_bytes()
        script = (Path(__file__).parent / SCRIPT).read_bytes()
        files = {SCRIPT: script, REQUIREMENTS: requirements, ARCHIVE: archive.content}
        size = f"{archive.files} tracked files, {len(archive.content) / 1e6:.2f} MB"
        missing = {
            name: content
            for name, content in files.items()
            if not self._is_there(f"{folder}/{name}", content)
        }
        if missing:
            self.client.workspace.mkdirs(folder)
        for name, content in missing.items():
            self.client.workspace.import_(
                f"{folder}/{name}",
                content=base64.b64encode(content).decode(),
                format=ImportFormat.AUTO,
                overwrite=True,
            )
            if not self._is_there(f"{folder}/{name}", content):
                raise SlmflowError(f"{folder}/{name}: did not arrive whole; run again")
        print(f"  code: {size}, {'uploaded to' if missing else 'is at'} {folder}", flush=True)

    def _is_there(self, path: str, content: bytes) -> bool:
        try:
            size = self.client.workspace.get_status(path).size
        except NotFound:
            return False
        return size is None or size == len(content)  # some workspaces do not tell it


def check_store() -> None:
    """Raise SlmflowError where a job could not reach the tracking store."""
    import mlflow

    for uri in (mlflow.get_tracking_uri(), mlflow.get_registry_uri()):
        if not uri.startswith(("http://", "https://", "databricks")):
            kind = uri.partition(":")[0]
            raise SlmflowError(
                f"backend=databricks: jobs cannot reach a {kind} store on this machine: "
                "export MLFLOW_TRACKING_URI=databricks, or the address of an MLflow server"
            )
        if "@" in urlsplit(uri).netloc:
            raise SlmflowError(
                "backend=databricks: MLFLOW_TRACKING_URI holds a password, which would be part of the job: "
                "use MLFLOW_TRACKING_USERNAME and +backend.secrets.MLFLOW_TRACKING_PASSWORD=scope/key"
            )


def profile_of(config: DatabricksBackendConfig) -> str | None:
    """The section of ~/.databrickscfg for the jobs: the store's own, so that both are one workspace.

    None where the environment says how to reach it. Raises SlmflowError where two are named.
    """
    import mlflow

    uris = (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    named = [uri.partition("://")[2].partition(":")[0] for uri in uris if uri.startswith("databricks")]
    for store in filter(None, named):
        if config.profile and config.profile != store:
            raise SlmflowError(
                f"backend.profile={config.profile}: the store is of the profile {store}; "
                "leave backend.profile out, or name the same one in MLFLOW_TRACKING_URI"
            )
    return config.profile or next(filter(None, named), None)


def code_folder(config: DatabricksBackendConfig, user: str, archive: Archive) -> str:
    """The workspace folder of this state of the code."""
    base = config.folder.rstrip("/") or f"/Workspace/Users/{user}/.slmflow"
    return f"{base}/{archive.digest[:16]}"


def step_run(run_id: str, experiment_id: str, step: str, parameters: dict[str, str]) -> StepRun:
    """A step's run in the store that this process uses; a profile is of this machine only."""
    import mlflow

    uris = [mlflow.get_tracking_uri(), mlflow.get_registry_uri()]
    tracking, registry = (uri.partition("://")[0] if uri.startswith("databricks") else uri for uri in uris)
    return StepRun(step, parameters, run_id, experiment_id, tracking, registry)
