"""Steps as Databricks jobs, one run of a job each, by the Jobs API."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.workspace import ImportFormat

from slmflow.backends import new_text
from slmflow.backends.archive import Archive, project_archive
from slmflow.backends.submission import ARCHIVE, REQUIREMENTS, SCRIPT, StepRun, submission
from slmflow.errors import SlmflowError, first_line
from slmflow.workflow.closure import ROOT
from slmflow.workflow.liveness import HEARTBEAT_TAG, INTERVAL_SECONDS, heartbeat

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.config.backend import DatabricksBackendConfig

JOBS = "/api/2.2/jobs/runs"
FASTEST_SECONDS, SLOWEST_SECONDS = 0.5, 10.0
"""Between two looks at a job: they become rarer the longer it takes."""
CANCEL_SECONDS = 120.0
"""For a cancelled job to end."""
ENDED = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
STARTED = ("RUNNING", "TERMINATING", *ENDED)


class DatabricksBackend:
    """A workspace with the project's code in it; it is a slot itself, as room is the workspace's to give."""

    def __init__(self, config: DatabricksBackendConfig) -> None:
        """Raises SlmflowError where a job could not reach the tracking store."""
        check_store()
        self.config = config

    @cached_property
    def client(self) -> WorkspaceClient:
        """Raises SlmflowError in one line where the workspace cannot be reached."""
        try:
            client = WorkspaceClient(
                profile=self.config.profile or None, product="slmflow", product_version="1.0"
            )
            client.current_user.me()
        except (DatabricksError, ValueError, OSError) as error:
            raise SlmflowError(
                f"Databricks workspace of {self.config.profile or 'DATABRICKS_HOST'}: {first_line(error)}; "
                "check DATABRICKS_HOST and DATABRICKS_TOKEN, or name a profile of ~/.databrickscfg by "
                "backend.profile"
            ) from None
        return client

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
            raise SlmflowError(f"the code could not be uploaded: {first_line(error)}; run again") from None
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
            return self.client.workspace.get_status(path).size == len(content)
        except NotFound:
            return False


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


class Job:
    """One step's job run; submitted again where its machine was lost."""

    def __init__(self, backend: DatabricksBackend, step: StepRun, log: Path) -> None:
        self.log = log
        self._backend = backend
        self._api = backend.client.api_client
        self._step = step
        self._id: int | None = None
        self._read = 0
        self._look, self._pause, self._beat = 0.0, FASTEST_SECONDS, 0.0
        self._ending = ""
        log.parent.mkdir(parents=True, exist_ok=True)

    def heartbeat(self) -> str:
        """The driver's own, until the job's process has one."""
        return heartbeat()

    def poll(self) -> int | None:
        """The exit status once the job has ended; asks the service rarer and rarer."""
        if time.monotonic() < self._look:
            return None
        self._look = time.monotonic() + self._pause
        self._pause = min(self._pause * 1.3, SLOWEST_SECONDS)
        try:
            if self._id is None:
                self._submit()
            state = self._get()
        except (DatabricksError, OSError) as error:
            self._ending = f"Databricks: {first_line(error)}"
            return 1
        if state["life_cycle_state"] not in ENDED:
            self._beat_for(state)
            return None
        self._keep_output()
        if state.get("result_state") == "SUCCESS":
            return 0
        why = state.get("state_message") or state.get("result_state") or state["life_cycle_state"]
        self._ending = f"job run {self._id}: {why}"
        if self._died(state):
            self._write(f"{self._ending}; submitted again\n")
            self._step = replace(self._step, attempt=self._step.attempt + 1)
            self._id, self._pause = None, FASTEST_SECONDS
            return None
        return 1

    def new_output(self) -> bytes:
        """The job's page at once; what it wrote when it has ended."""
        text = new_text(self.log, self._read)
        self._read += len(text)
        return text

    def ending(self, status: int) -> str:
        """What the service says."""
        return self._ending

    def stop(self) -> None:
        """Cancel the job and wait for its end."""
        if self._id is None:
            return
        try:
            self._api.do("POST", f"{JOBS}/cancel", body={"run_id": self._id})
            until = time.monotonic() + CANCEL_SECONDS
            while self._get()["life_cycle_state"] not in ENDED and time.monotonic() < until:
                time.sleep(FASTEST_SECONDS)
        except (DatabricksError, OSError) as error:
            print(f"job run {self._id} could not be cancelled: {first_line(error)}", flush=True)

    def _submit(self) -> None:
        body = submission(self._backend.config, self._backend.folder, self._step)
        self._id = int(self._api.do("POST", f"{JOBS}/submit", body=body)["run_id"])
        self._write(f"job run {self._id}: {self._get_run().get('run_page_url', '')}\n")

    def _get_run(self) -> dict[str, Any]:
        found: dict[str, Any] = self._api.do("GET", f"{JOBS}/get", query={"run_id": self._id})
        return found

    def _get(self) -> dict[str, str]:
        state: dict[str, str] = self._get_run()["state"]
        return state

    def _beat_for(self, state: dict[str, str]) -> None:
        """While a job waits for its machine, nobody else says that the run is cared for."""
        if state["life_cycle_state"] in STARTED or time.monotonic() - self._beat < INTERVAL_SECONDS:
            return
        from mlflow import MlflowClient

        self._beat = time.monotonic()
        MlflowClient().set_tag(self._step.run_id, HEARTBEAT_TAG, heartbeat())

    def _died(self, state: dict[str, str]) -> bool:
        """Whether the job ended without the step saying why, and may be tried again."""
        from mlflow import MlflowClient

        from slmflow.workflow.runs import ERROR_TAG

        if self._step.attempt >= self._backend.config.retries or state.get("result_state") in (
            "CANCELED",
            "TIMEDOUT",
        ):
            return False
        return ERROR_TAG not in MlflowClient().get_run(self._step.run_id).data.tags

    def _keep_output(self) -> None:
        try:
            task = self._get_run()["tasks"][0]["run_id"]
            found = self._api.do("GET", f"{JOBS}/get-output", query={"run_id": task})
        except (DatabricksError, OSError) as error:
            self._write(f"its output cannot be read: {first_line(error)}\n")
            return
        self._write(found.get("logs") or "")
        if found.get("logs_truncated"):
            self._write("(the service keeps no more of it)\n")

    def _write(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)
