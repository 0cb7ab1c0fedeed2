"""One step's job run in a Databricks workspace."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.backends import new_text
from slmflow.backends.service import ERRORS, JOBS, is_passing, said
from slmflow.backends.submission import StepRun, submission
from slmflow.workflow.liveness import INTERVAL_SECONDS, beat_where_silent, heartbeat

if TYPE_CHECKING:
    from slmflow.backends.databricks import DatabricksBackend

FASTEST_SECONDS, SLOWEST_SECONDS = 0.5, 10.0
"""Between two looks at a job: they become rarer the longer it takes."""
PATIENCE_SECONDS = 300.0
"""How long the service may fail to answer for a job before that is given up."""
CANCEL_SECONDS = 120.0
"""For a cancelled job to end."""
ENDED = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")


class Job:
    """One step's job run; submitted again where its machine was lost."""

    def __init__(self, backend: DatabricksBackend, step: StepRun, log: Path) -> None:
        self.log = log
        self._backend = backend
        self._api = backend.jobs_client.api_client
        self._step = step
        self._body: dict[str, Any] | None = None
        """What was submitted, from before the request on: its answer may never come."""
        self._id: int | None = None
        self._page = ""
        self._read = 0
        self._look, self._pause, self._beat = 0.0, FASTEST_SECONDS, 0.0
        self._failing: float | None = None
        """Since when the service has not answered."""
        self._cancelled = False
        self._ending = ""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()

    def heartbeat(self) -> str:
        """The driver's own, until the job's process has one."""
        return heartbeat()

    def poll(self) -> int | None:
        """The exit status once the job has ended; asks the service rarer and rarer."""
        began = time.monotonic()
        if began < self._look:
            return None
        self._look = began + self._pause
        self._pause = min(self._pause * 1.3, SLOWEST_SECONDS)
        try:
            if self._id is None:
                self._submit()
            found = self._get()
        except ERRORS as error:
            unanswered = is_passing(error) or self._failing is not None
            self._failing = began if self._failing is None else self._failing
            if is_passing(error) and time.monotonic() - self._failing < PATIENCE_SECONDS:
                return None
            return self._give_up(error, may_run=unanswered or self._id is not None)
        self._failing = None
        if not self._page:
            self._page = str(found.get("run_page_url", ""))
            self._write(f"job run {self._id}: {self._page}\n")
        if found["state"]["life_cycle_state"] not in ENDED:
            self._beat_sometimes()
            return None
        return self._end(found)

    def new_output(self) -> bytes:
        """The job's page at once; what it wrote when it has ended."""
        text = new_text(self.log, self._read)
        self._read += len(text)
        return text

    def ending(self, status: int) -> str:
        """What the service says."""
        return self._ending

    def interrupt(self) -> None:
        """Cancel the job; one whose submission was not answered yet is asked for by its token."""
        if self._body is None or self._cancelled:
            return
        try:
            self._cancel()
        except ERRORS as error:
            print(f"{self._name} could not be cancelled: {said(error)}", flush=True)

    def stop(self) -> None:
        """Cancel the job and wait for its end."""
        self.interrupt()
        if not self._cancelled:
            return
        until = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < until:
            try:
                if self._get()["state"]["life_cycle_state"] in ENDED:
                    return
            except ERRORS as error:
                if not is_passing(error):
                    print(f"{self._name} was cancelled, but not seen to end: {said(error)}", flush=True)
                    return
            time.sleep(FASTEST_SECONDS)
        print(f"{self._name} was cancelled, but has not ended in {CANCEL_SECONDS:.0f} s", flush=True)

    @property
    def _name(self) -> str:
        name = "a job run of unknown id" if self._id is None else f"job run {self._id}"
        return f"{name} ({self._page})" if self._page else name

    def _submit(self) -> None:
        if self._body is None:
            self._body = submission(self._backend.config, self._backend.folder, self._step)
        self._id = int(self._api.do("POST", f"{JOBS}/submit", body=self._body)["run_id"])

    def _cancel(self) -> None:
        if self._id is None:
            self._submit()
        self._api.do("POST", f"{JOBS}/cancel", body={"run_id": self._id})
        self._cancelled = True

    def _get(self) -> dict[str, Any]:
        found: dict[str, Any] = self._api.do("GET", f"{JOBS}/get", query={"run_id": self._id})
        return found

    def _give_up(self, error: BaseException, *, may_run: bool) -> int:
        """The service does not say any more what becomes of the job: it must not go on unseen."""
        self._ending = f"Databricks: {said(error)}"
        if may_run:
            try:
                self._cancel()
                self._ending += f"; {self._name} was cancelled"
            except ERRORS as other:
                self._ending += f"; {self._name} could not be cancelled ({said(other)}): it may still run"
        self._write(f"{self._ending}\n")
        return 1

    def _end(self, found: dict[str, Any]) -> int | None:
        state = found["state"]
        task = (found.get("tasks") or [{}])[0]
        error = self._keep_output(task.get("run_id"))
        if state.get("result_state") == "SUCCESS":
            return 0
        own = task.get("state", {}).get("state_message")
        why = error or own or state.get("state_message") or state.get("result_state")
        self._ending = f"job run {self._id}: {why or state['life_cycle_state']}"
        if self._died(state):
            self._write(f"{self._ending}; submitted again\n")
            self._step = replace(self._step, attempt=self._step.attempt + 1)
            self._id, self._body, self._page, self._pause = None, None, "", FASTEST_SECONDS
            return None
        self._write(f"{self._ending}\n")
        return 1

    def _beat_sometimes(self) -> None:
        """Until its process has begun, and where it cannot beat, nobody else says that it is cared for."""
        if time.monotonic() - self._beat >= INTERVAL_SECONDS:
            self._beat = time.monotonic()
            beat_where_silent(self._step.run_id)

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

    def _keep_output(self, task: int | None) -> str:
        """Write what the task wrote; returns the one line in which the service says why it failed."""
        try:
            found = self._backend.client.api_client.do("GET", f"{JOBS}/get-output", query={"run_id": task})
        except ERRORS as error:
            self._write(f"its output cannot be read: {said(error)}\n")
            return ""
        logs = str(found.get("logs") or "")
        self._write(logs if logs.endswith("\n") or not logs else f"{logs}\n")
        if found.get("logs_truncated"):
            self._write("(the service keeps no more of it)\n")
        if trace := found.get("error_trace"):
            self._write(f"{trace}\n")
        return next((line for line in str(found.get("error") or "").splitlines() if line.strip()), "")

    def _write(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)
