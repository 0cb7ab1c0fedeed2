"""One job of a workspace: how it reaches its stores, what its faults come to, and how it is stopped."""

import io
import json
import tarfile
import time

import pytest
from mlflow import MlflowClient

from slmflow.backends import job as job_module
from slmflow.backends import workspace as backend_module
from slmflow.backends.archive import Archive
from slmflow.backends.job import Job
from slmflow.backends.service import said
from slmflow.backends.submission import StepRun
from slmflow.backends.workspace import DatabricksBackend, profile_of
from slmflow.config.backend import DatabricksBackendConfig
from slmflow.errors import SlmflowError
from slmflow.workflow import liveness
from slmflow.workflow.ending import stop
from slmflow.workflow.liveness import HEARTBEAT_TAG, heartbeat, host
from tests.databricks import TOKEN, USER, databricks

SUBMIT, GET, CANCEL = r"POST .*/jobs/runs/submit", r"GET .*/jobs/runs/get$", r"POST .*/jobs/runs/cancel"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    with databricks(tmp_path / "workspace") as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def begin(store, workspace, tmp_path, monkeypatch):
    """A job whose step is a few lines of Python, on a run of its own."""
    monkeypatch.setattr(job_module, "FASTEST_SECONDS", 0.02)
    monkeypatch.setattr(job_module, "SLOWEST_SECONDS", 0.1)
    monkeypatch.setattr(backend_module, "QUICK_SECONDS", 1)
    monkeypatch.setattr(backend_module, "check_store", lambda: None)

    def start(code="print('done')", tracking="http://127.0.0.1:9", **settings) -> Job:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as packed:
            for name, text in (("steps/__init__.py", ""), ("steps/fetch.py", code)):
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                packed.addfile(member, io.BytesIO(text.encode()))
        archive = Archive(content.getvalue(), 2)
        monkeypatch.setattr(backend_module, "project_archive", lambda: archive)
        backend = DatabricksBackend(DatabricksBackendConfig(**{"retries": 0, **settings}))
        run = MlflowClient().create_run("0")
        step = StepRun("fetch", {}, run.info.run_id, "0", tracking, tracking)
        return Job(backend, step, tmp_path / run.info.run_id / "output.log")

    return start


def ended(job: Job) -> int:
    while (status := job.poll()) is None:
        time.sleep(0.02)
    return status


def until_it_runs(job: Job, workspace) -> dict:
    while not any(one["state"]["life_cycle_state"] == "RUNNING" for one in workspace.jobs.values()):
        assert job.poll() is None
        time.sleep(0.02)
    return workspace.jobs[max(workspace.jobs)]


def state_of(workspace) -> dict:
    """Of the newest job, once it has ended."""
    while "result_state" not in (found := workspace.runs.look(max(workspace.jobs))["state"]):
        time.sleep(0.05)
    return found


ASKS = """
import os
from databricks.sdk import WorkspaceClient
from dbruntime.sdk_credential_provider import init_runtime_native_auth
print("the runtime gives the step", init_runtime_native_auth())
print("it is", WorkspaceClient().current_user.me().user_name)
"""


def test_a_step_reaches_the_workspace_by_what_the_runtime_gives_to_its_runner_alone(begin, workspace):
    job = begin(ASKS, tracking="databricks")
    assert ended(job) == 0, job.log.read_text()
    assert "the runtime gives the step (None, None)" in job.log.read_text()
    assert f"it is {USER}" in job.log.read_text()
    assert TOKEN not in job.log.read_text()
    assert TOKEN not in json.dumps(workspace.submissions())


def test_a_service_principals_own_secret_goes_before_the_runtimes_token(begin, workspace):
    workspace.secrets["slm/secret"] = "planted"
    code = "import os; print(*sorted(name for name in os.environ if name.startswith('DATABRICKS_')))"
    job = begin(code, tracking="databricks", secrets={"DATABRICKS_CLIENT_SECRET": "slm/secret"})
    assert ended(job) == 0, job.log.read_text()
    assert "DATABRICKS_CLIENT_SECRET DATABRICKS_HOST DATABRICKS_RUNTIME_VERSION\n" in job.log.read_text()


@pytest.mark.parametrize("match", [SUBMIT, GET])
@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_a_passing_fault_is_waited_for(begin, workspace, match, status):
    workspace.fail(match, status, times=2)
    job = begin()
    assert ended(job) == 0, job.ending(1)
    assert len(workspace.jobs) == 1


@pytest.mark.parametrize("status", [403, 501])
def test_a_refused_submission_ends_in_one_line_that_is_in_the_log_too(begin, workspace, status):
    workspace.fail(SUBMIT, status, times=99)
    job = begin()
    assert job.poll() == 1
    assert job.ending(1) == "Databricks: come again"
    assert job.log.read_text().splitlines() == [job.ending(1)]


LONG = "import time; time.sleep(600)"


def test_a_job_that_may_not_be_looked_at_any_more_is_cancelled(begin, workspace):
    job = begin(LONG)
    until_it_runs(job, workspace)
    workspace.fail(GET, 403, times=99)
    assert ended(job) == 1
    workspace.faults.clear()
    assert "was cancelled" in job.ending(1)
    assert state_of(workspace)["result_state"] == "CANCELED"


def test_a_job_that_cannot_be_cancelled_either_is_named_by_its_page(begin, workspace):
    job = begin(LONG)
    until_it_runs(job, workspace)
    workspace.fail("/jobs/runs/", 403, times=99)
    assert ended(job) == 1
    run_id = max(workspace.jobs)
    assert f"job run {run_id} ({workspace.url}/#job/run/{run_id}) could not be cancelled" in job.ending(1)
    assert "it may still run" in job.ending(1)


def test_a_service_that_stays_away_is_given_up_and_the_job_cancelled(begin, workspace, monkeypatch):
    job = begin(LONG)
    until_it_runs(job, workspace)
    monkeypatch.setattr(job_module, "PATIENCE_SECONDS", 0.5)
    workspace.fail(GET, 502, times=999)
    assert ended(job) == 1
    workspace.faults.clear()
    assert state_of(workspace)["result_state"] == "CANCELED"


def test_a_job_whose_submission_was_never_answered_is_found_by_its_token_and_cancelled(begin, workspace):
    job = begin(LONG)
    workspace.fail(SUBMIT, None, times=999, after=True)
    assert job.poll() is None
    workspace.faults.clear()
    assert len(workspace.jobs) == 1
    job.stop()
    assert len(workspace.jobs) == 1
    assert state_of(workspace)["result_state"] == "CANCELED"


def test_a_submission_that_was_lost_and_is_then_refused_may_have_left_a_job_and_says_so(begin, workspace):
    workspace.fail(SUBMIT, 502, after=True)
    job = begin(LONG)
    assert job.poll() is None
    assert len(workspace.jobs) == 1
    workspace.fail(SUBMIT, 403, times=99)
    assert ended(job) == 1
    assert "a job run of unknown id could not be cancelled" in job.ending(1)


def test_what_was_never_submitted_needs_no_request_to_be_stopped(begin, workspace):
    job = begin()
    job.stop()
    assert not [path for _, path, _ in workspace.requests if "/jobs/" in path]


def test_every_child_is_asked_to_stop_before_the_first_is_waited_for(store, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's process stays interruptible
    said = []

    class Slow:
        def __init__(self, name):
            self.name = name

        def interrupt(self):
            said.append(f"ask {self.name}")

        def stop(self):
            said.append(f"wait for {self.name}")

    runs = [MlflowClient().create_run("0") for _ in "ab"]
    told = []
    stop([(name, run, Slow(name)) for name, run in zip("ab", runs, strict=True)], told.append)
    assert [line.split(",")[0] for line in told] == ["✗ a  stopped", "✗ b  stopped"]
    assert said == ["ask a", "ask b", "wait for a", "wait for b"]
    statuses = [MlflowClient().get_run(run.info.run_id).info.status for run in runs]
    assert statuses == ["KILLED", "KILLED"]


def test_why_the_service_could_not_run_a_job_is_told_though_it_wrote_nothing(begin, workspace):
    workspace.runs.without_libraries.append("fetch")
    job = begin()
    assert ended(job) == 1
    assert "Library installation failed on the cluster" in job.ending(1)
    assert job.ending(1) in job.log.read_text()


def test_a_steps_own_failure_has_the_services_trace_in_the_log(begin, workspace):
    job = begin("import sys; print('what it did'); sys.exit(3)")
    assert ended(job) == 1
    assert job.ending(1).endswith("SystemExit: 3")
    text = job.log.read_text()
    assert text.index("what it did") < text.index("Traceback")


def test_the_driver_beats_for_a_job_until_its_process_does(begin, workspace, monkeypatch):
    monkeypatch.setattr(job_module, "INTERVAL_SECONDS", 0.0)
    job = begin(LONG)
    run_id = job._step.run_id
    until_it_runs(job, workspace)
    assert job.poll() is None

    def tag() -> str:
        return MlflowClient().get_run(run_id).data.tags[HEARTBEAT_TAG]

    assert json.loads(tag())["host"] == host()
    theirs = json.dumps({**json.loads(heartbeat()), "host": "a cluster"})
    MlflowClient().set_tag(run_id, HEARTBEAT_TAG, theirs)
    liveness.beat_where_silent(run_id)
    assert tag() == theirs, "a process that beats is left alone"
    silent = json.dumps({**json.loads(theirs), "at": time.time() - 100})
    MlflowClient().set_tag(run_id, HEARTBEAT_TAG, silent)
    liveness.beat_where_silent(run_id)
    assert json.loads(tag())["host"] == host()
    job.stop()


@pytest.mark.parametrize(
    ("uri", "profile", "taken"),
    [
        ("databricks", "", None),
        ("databricks", "dev", "dev"),
        ("databricks://dev", "", "dev"),
        ("databricks://dev", "dev", "dev"),
        ("http://127.0.0.1:9", "", None),
    ],
)
def test_jobs_go_to_the_workspace_of_the_store(uri, profile, taken, monkeypatch):
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: uri)
    monkeypatch.setattr("mlflow.get_registry_uri", lambda: uri)
    assert profile_of(DatabricksBackendConfig(profile=profile)) == taken


def test_another_profile_than_the_stores_is_refused(monkeypatch):
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: "databricks://dev")
    monkeypatch.setattr("mlflow.get_registry_uri", lambda: "databricks-uc://dev")
    with pytest.raises(SlmflowError, match=r"backend\.profile=prod: the store is of the profile dev"):
        profile_of(DatabricksBackendConfig(profile="prod"))


def test_a_workspace_that_does_not_tell_sizes_takes_the_code(begin, workspace, monkeypatch):
    real = workspace.files.get_status
    monkeypatch.setattr(
        workspace.files, "get_status", lambda request: {k: v for k, v in real(request).items() if k != "size"}
    )
    job = begin()
    assert ended(job) == 0, job.ending(1)


def test_what_the_client_adds_of_its_own_settings_is_not_told():
    """As databricks-sdk ends its message where no credentials are found."""
    text = "default auth: cannot configure default credentials. Config: host=https://h, token=***. Env: X"
    assert said(ValueError(text)) == "default auth: cannot configure default credentials"
