"""Experiments, artifacts and Unity Catalog of a workspace, by every road that leads there."""

import json
import os
import subprocess
import sys
import time

import mlflow
import pytest
from databricks.sdk import WorkspaceClient
from mlflow import MlflowClient

from slmflow.workflow.checkout import COMMIT_TAG
from slmflow.workflow.closure import ROOT
from tests import warm
from tests.backends.bundle import deploy
from tests.databricks import TOKEN, USER, databricks

pytestmark = pytest.mark.slow
TINY = "+experiment=tiny"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One for all tests: each makes models and an experiment of its own name."""
    with databricks(tmp_path_factory.mktemp("workspace"), tracking=True) as found:
        yield found


@pytest.fixture
def environment(workspace, monkeypatch, request):
    """A client's, with an experiment of the test's own; the test's process is one as well."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in workspace.environment.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri("databricks")
    mlflow.set_registry_uri("databricks-uc")
    name = f"/Users/{USER}/{request.node.name}"
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, "PYTHONPATH": "", "PATH": path, "MLFLOW_EXPERIMENT_NAME": name}
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def say(environment, *command) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def register(environment, words) -> tuple[int, str]:
    return say(environment, warm.python(), "-m", "steps.register", f"overrides={TINY} {words}")


def wait_for(workspace, run_id: int) -> dict:
    """Look at a job until it has ended, as the service would by itself."""
    while True:
        job = workspace.runs.look(run_id)
        if "result_state" in job["state"]:
            return job
        time.sleep(0.2)


def aliases(name: str) -> dict[str, str]:
    return MlflowClient().get_registered_model(name).aliases


def test_steps_as_jobs_end_in_a_champion_of_unity_catalog_and_again_from_cache(workspace, environment):
    before = len(workspace.jobs)
    words = "backend=databricks backend.schema=main.default"
    status, said = register(environment, words)
    assert status == 0, said
    assert len(workspace.jobs) - before == 7
    status, said = register(environment, words)
    assert status == 0, said
    assert said.count("reused, run") == 7
    assert len(workspace.jobs) - before == 7
    for name in ("main.default.tiny-phi3-onnx", "main.default.tiny-phi3-pipeline"):
        assert aliases(name) == {"champion": "1"}
    version = MlflowClient().get_model_version("main.default.tiny-phi3-onnx", "1")
    assert version.tags["gate"] == "pass"
    model = mlflow.pyfunc.load_model(
        "models:/main.default.tiny-phi3-onnx@champion", model_config={"tracing": False}
    )
    assert isinstance(model.predict({"prompt": "Once"})[0], str)


def test_a_schema_that_is_not_there_is_told_before_any_work(environment):
    status, said = register(environment, "backend.schema=no.such")
    assert status == 1
    assert "Unity Catalog has no schema no.such" in said
    assert "to run" not in said


def test_without_an_experiment_one_line_says_how_to_name_it(environment):
    status, said = register({**environment, "MLFLOW_EXPERIMENT_NAME": ""}, "backend.schema=main.default")
    assert status == 1
    assert "export MLFLOW_EXPERIMENT_NAME=/Users/<you>/slmflow" in said
    assert "Traceback" not in said


def test_the_champion_is_rolled_back_and_promoted_in_unity_catalog(environment):
    name = "main.default.back-onnx"
    for seed in (1, 2):
        status, said = register(
            environment, f"gate=off model.name=main.default.back model.source.seed={seed}"
        )
        assert status == 0, said
    assert aliases(name) == {"champion": "2", "previous": "1"}
    status, said = say(environment, warm.python(), "-m", "slmflow.commands.rollback", f"model={name}")
    assert status == 0, said
    assert aliases(name) == {"champion": "1", "previous": "2"}
    words = (f"model={name}", "version=2")
    status, said = say(environment, warm.python(), "-m", "slmflow.commands.promote", *words)
    assert status == 0, said
    assert aliases(name) == {"champion": "2", "previous": "1"}


def test_mlflows_own_backend_runs_the_workflow_as_one_job(workspace, environment, tmp_path):
    """`make databricks`; --env-manager local, as building an environment is not what is tested here."""
    experiment = environment.pop("MLFLOW_EXPERIMENT_NAME")
    config = tmp_path / "backend.json"
    cluster = json.loads((ROOT / "databricks" / "backend.json").read_text())
    cluster["new_cluster"]["spark_env_vars"] = {"HF_TOKEN": "{{secrets/hub/token}}"}
    config.write_text(json.dumps(cluster))
    workspace.secrets["hub/token"] = "planted-secret-7f3a91"
    arguments = f"--experiment-name {experiment} -P model=tiny_phi3"
    status, said = say(
        environment, "make", "databricks", "ENV_MANAGER=local", f"CONFIG={config}",
        f"ARGS={arguments} -P overrides='+experiment=tiny backend.schema=ml.slm'",
    )  # fmt: skip
    assert status == 0, said
    assert "tracked files of " in said
    (sent,) = [body for body in workspace.submissions() if "shell_command_task" in body]
    assert TOKEN not in json.dumps(sent)
    assert "planted-secret" not in json.dumps(sent)
    uploads = [
        path for method, path, _ in workspace.requests if method == "POST" and path.startswith("/dbfs/")
    ]
    assert len(uploads) == 1
    run_id = max(workspace.jobs)
    job = wait_for(workspace, run_id)
    log = workspace.runs.log(run_id + 1)
    assert job["state"]["result_state"] == "SUCCESS", log
    assert "planted-secret" not in log
    assert aliases("ml.slm.tiny-phi3-onnx") == {"champion": "1"}
    found = mlflow.get_experiment_by_name(experiment)
    (parent,) = MlflowClient().search_runs([found.experiment_id], "tags.slmflow.kind = 'driver'")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    assert parent.data.tags[COMMIT_TAG] == head.strip(), "so that it can be reproduced"
    assert parent.info.status == "FINISHED"


@pytest.mark.parametrize("name", ["register", "register_on_cluster"])
def test_the_bundles_job_ends_in_a_champion_though_a_machine_is_lost(workspace, environment, name):
    schema = "ml.slm" if name == "register" else "main.default"
    experiment = environment["MLFLOW_EXPERIMENT_NAME"]
    found = deploy(workspace, USER, schema=schema, experiment=experiment)["resources"]["jobs"][name]
    given = {"overrides": f"{TINY} model.name=bundled"}
    found["parameters"] = [
        {"name": p["name"], "default": given.get(p["name"], p["default"])} for p in found["parameters"]
    ]
    workspace.kill_next("log_onnx")
    sent = WorkspaceClient().api_client.do("POST", "/api/2.2/jobs/runs/submit", body=found)
    job = wait_for(workspace, sent["run_id"])
    logs = "\n".join(workspace.runs.log(one["run_id"]) for one in job["tasks"].values())
    assert job["state"]["result_state"] == "SUCCESS", logs
    assert job["tasks"]["log_onnx"]["attempts"] == 2
    assert aliases(f"{schema}.bundled-onnx") == {"champion": "1"}
    made = mlflow.get_experiment_by_name(experiment)
    steps = MlflowClient().search_runs([made.experiment_id], "tags.slmflow.kind = 'step'")
    done = [run.info.run_name for run in steps if run.info.status == "FINISHED"]
    assert sorted(done) == sorted(set(done)), "no task does again what one before it did"
    assert len(done) == 7


def test_a_job_that_is_cancelled_in_the_workspace_ends_in_one_line_and_the_command_that_resumes(
    workspace, environment
):
    command = [warm.python(), "-m", "steps.fetch"]
    command += [f"overrides={TINY} backend=databricks backend.schema=main.default model.source.seed=9"]
    before = len(workspace.jobs)
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while len(workspace.jobs) == before:
        time.sleep(0.05)
        assert process.poll() is None
    WorkspaceClient().api_client.do("POST", "/api/2.2/jobs/runs/cancel", body={"run_id": max(workspace.jobs)})
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 1, said
    assert "Run cancelled." in said.splitlines()[-1]
    assert "to go on where it stopped:" in said
    assert "Traceback" not in said
    status, said = say(environment, *command)
    assert status == 0, said
