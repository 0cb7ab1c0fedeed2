"""A local driver whose steps are jobs of a workspace: the real client, the real steps, a stand-in that executes them."""

import json
import os
import signal
import subprocess
import time

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.workflow.closure import ROOT
from tests import warm
from tests.databricks import TOKEN, databricks
from tests.end_to_end.test_server import server  # noqa: F401 the store that both sides reach

pytestmark = pytest.mark.slow
SUBMIT, GET = r"POST .*/jobs/runs/submit", r"GET .*/jobs/runs/get$"


@pytest.fixture
def workspace(tmp_path):
    with databricks(tmp_path / "workspace") as found:
        yield found


@pytest.fixture
def drive(server, workspace, monkeypatch):  # noqa: F811
    """Run an entry point with the steps in the workspace; a command in a fresh experiment."""
    uri = server[1]
    mlflow.set_tracking_uri(uri)
    experiment = MlflowClient().create_experiment(f"jobs {time.time_ns()}")
    environment = {
        **os.environ, "PYTHONPATH": "", "MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_ID": experiment,
        **workspace.environment,
    }  # fmt: skip

    def start(step, words="", **more) -> subprocess.Popen:
        command = [
            warm.python(),
            "-m",
            step,
            f"overrides=+experiment=tiny backend=databricks {words}".strip(),
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, **more},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
        )

    def run(step="steps.fetch", words="", **more) -> tuple[int, str]:
        process = start(step, words, **more)
        said = process.communicate(timeout=500)[0]
        return process.returncode, said

    run.start, run.experiment, run.uri = start, experiment, uri
    yield run
    mlflow.set_tracking_uri(None)


def test_the_whole_workflow_runs_as_jobs_to_a_champion_and_again_from_cache(drive, workspace):
    status, said = drive("steps.register")
    assert status == 0, said
    assert "tiny-phi3-onnx v" in said
    assert "@champion" in said
    assert len(workspace.jobs) == 7
    assert "uploaded to /Workspace/Users/founder@example.com/.slmflow/" in said
    status, said = drive("steps.register")
    assert status == 0, said
    assert said.count("reused, run") == 7
    assert len(workspace.jobs) == 7
    jobs = json.dumps(workspace.submissions())
    assert TOKEN not in jobs
    assert str(ROOT) not in jobs, "nothing of this machine is in a job"


def test_what_the_plan_prints_is_what_is_submitted(drive, workspace):
    _, planned = drive("slmflow.commands.plan", "driver.parallel=1")
    (first, *_) = json.loads(planned[planned.index("[\n") : planned.rindex("]") + 1])
    status, said = drive(words="driver.parallel=1")
    assert status == 0, said
    (sent,) = workspace.submissions()
    run_id = sent["idempotency_token"].removesuffix("-0")
    text = json.dumps(first).replace("<run of fetch>", run_id).replace("<experiment>", drive.experiment)
    assert json.loads(text.replace("<you>", "founder@example.com")) == sent


@pytest.mark.parametrize(
    ("match", "status", "after"),
    [
        (SUBMIT, 429, False),
        (SUBMIT, 503, False),
        (SUBMIT, None, True),
        (GET, 503, False),
        (r"POST .*/workspace/import", None, False),
        (r"GET .*/get-output", 503, False),
    ],
)
def test_a_service_that_falters_costs_a_retry_and_no_second_job(drive, workspace, match, status, after):
    workspace.fail(match, status, after=after)
    ended, said = drive()
    assert ended == 0, said
    assert len(workspace.jobs) == 1


def test_a_lost_machine_costs_the_job_a_second_start(drive, workspace):
    workspace.kill_next("fetch")
    status, said = drive()
    assert status == 0, said
    assert "the instance was lost; submitted again" in said
    assert len(workspace.jobs) == 2


def test_a_machine_lost_again_ends_in_one_line_and_the_command_that_resumes(drive, workspace):
    workspace.kill_next("fetch")
    workspace.kill_next("fetch")
    status, said = drive()
    assert status == 1
    assert "to go on where it stopped:" in said
    assert "the instance was lost" in said.splitlines()[-1]
    assert "Traceback" not in said
    status, said = drive()
    assert status == 0, said


def test_ctrl_c_cancels_the_jobs_and_leaves_no_run_running(drive, workspace):
    process = drive.start("steps.register")
    for _ in range(600):
        if any(job["state"]["life_cycle_state"] == "RUNNING" for job in workspace.jobs.values()):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 130, said
    assert all(job["state"].get("result_state") in ("CANCELED", "SUCCESS") for job in workspace.jobs.values())
    found = MlflowClient(drive.uri).search_runs([drive.experiment], "attributes.status = 'RUNNING'")
    assert not found


def test_a_secret_reaches_the_step_and_nothing_else(drive, workspace, tmp_path):
    workspace.secrets["hub/token"] = "planted-secret-7f3a91"
    status, said = drive(words="+backend.secrets.HF_TOKEN=hub/token")
    assert status == 0, said
    assert ("GET", "/api/2.0/secrets/get", {"scope": "hub", "key": "token"}) in workspace.requests
    logs = "".join(path.read_text() for path in (tmp_path / "workspace" / "clusters").rglob("log"))
    assert "planted-secret" not in said + logs + json.dumps(workspace.submissions())


def test_a_secret_that_is_not_there_ends_the_job_in_words(drive, workspace):
    status, said = drive(words="+backend.secrets.HF_TOKEN=hub/none backend.retries=0")
    assert status == 1
    assert "Failed to get secret none" in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DATABRICKS_TOKEN": "wrong"}, "Invalid access token"),
        ({"DATABRICKS_HOST": "", "DATABRICKS_TOKEN": ""}, "check DATABRICKS_HOST and DATABRICKS_TOKEN"),
        (
            {"MLFLOW_TRACKING_URI": "sqlite:////tmp/slmflow-none.db", "MLFLOW_EXPERIMENT_ID": "0"},
            "jobs cannot reach a sqlite store",
        ),
    ],
)
def test_what_cannot_be_reached_is_told_in_one_line(drive, workspace, variables, said):
    status, text = drive(**variables)
    assert status == 1
    assert said in text
    assert "Traceback" not in text
    assert not workspace.jobs
