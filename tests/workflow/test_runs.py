"""What a run says of its upstream, and the line that starts it again."""

import os
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.errors import SlmflowError
from slmflow.workflow import runs
from slmflow.workflow.checkout import COMMIT_TAG
from slmflow.workflow.closure import ROOT
from slmflow.workflow.launch import JOB_TAG, start_command
from slmflow.workflow.outputs import DAMAGED_TAG
from slmflow.workflow.shell import active_run
from tests.workflow.made_runs import finished

KEY = "a" * 64


@pytest.fixture
def fetched(store):
    return finished("fetch", {"manifest.json": "{}"}, key=KEY)


@pytest.fixture
def logged(store, fetched):
    return finished(
        "log_pipeline",
        {"logged.json": "{}"},
        upstream={"fetch_run": fetched.info.run_id},
        keys={"fetch_run": KEY},
    )


def fetch_of(logged):
    return runs.upstream_of(logged, "fetch_run").info.run_id


def test_the_upstream_is_the_recorded_run_while_it_is_whole(store, fetched, logged):
    finished("fetch", {"manifest.json": "{}"}, key=KEY)
    assert fetch_of(logged) == fetched.info.run_id


def test_an_upstream_that_was_removed_is_replaced_by_one_of_the_same_key(store, fetched, logged):
    other = finished("fetch", {"manifest.json": "{}"}, key=KEY)
    finished("fetch", {"manifest.json": "{}"}, key="b" * 64)
    MlflowClient().delete_run(fetched.info.run_id)
    assert fetch_of(logged) == other.info.run_id


def test_an_upstream_that_was_damaged_is_replaced_by_one_of_the_same_key(store, fetched, logged):
    other = finished("fetch", {"manifest.json": "{}"}, key=KEY)
    manifest = Path(fetched.info.artifact_uri) / "manifest.json"
    os.chmod(manifest, 0o644)
    manifest.write_text("[]")
    assert fetch_of(logged) == other.info.run_id


def test_an_upstream_without_a_replacement_is_refused_by_its_id(store, fetched, logged):
    finished("fetch", {"manifest.json": "{}"}, key="b" * 64)
    MlflowClient().delete_run(fetched.info.run_id)
    with pytest.raises(SlmflowError, match=f"fetch_run={fetched.info.run_id}: that fetch run was deleted"):
        fetch_of(logged)


def test_a_damaged_artifact_of_a_local_store_marks_its_run(store, fetched):
    (Path(fetched.info.artifact_uri) / "manifest.json").unlink()
    with pytest.raises(SlmflowError, match=r"manifest\.json is gone; run again"):
        runs.artifact(fetched, "manifest.json")
    assert MlflowClient().get_run(fetched.info.run_id).data.tags[DAMAGED_TAG] == "manifest.json is gone"


def driver(**tags):
    run = MlflowClient().create_run("0", tags=tags)
    return MlflowClient().get_run(run.info.run_id)


def test_a_run_of_this_folder_is_started_again_from_this_folder(store):
    parent = driver(**{"mlflow.source.name": f"file://{ROOT}", "mlflow.project.entryPoint": "register"})
    assert start_command(parent, {"model": "tiny_phi3", "export": "", "overrides": "a=1 b=2"}) == (
        f"mlflow run {ROOT} -e register --env-manager local -P model=tiny_phi3 -P 'overrides=a=1 b=2'"
    )


def test_a_run_of_a_git_uri_is_started_again_from_it_at_its_commit_and_in_its_experiment(store):
    experiment = mlflow.create_experiment("elsewhere")
    tags = {
        "mlflow.source.name": "https://example.com/us/slmflow.git",
        "mlflow.source.git.commit": "c" * 40,
        "mlflow.project.entryPoint": "main",
        "mlflow.project.env": "conda",
    }
    run = MlflowClient().create_run(experiment, tags=tags)
    assert start_command(MlflowClient().get_run(run.info.run_id), {}) == (
        f"mlflow run https://example.com/us/slmflow.git -v {'c' * 40} --env-manager conda "
        "--experiment-name elsewhere"
    )


def test_a_run_of_a_step_by_hand_is_started_again_as_that_step(store):
    parent = driver(**{"mlflow.source.name": "/somewhere/steps/fetch.py"})
    assert start_command(parent, {}, "fetch") == f"mlflow run {ROOT} -e fetch --env-manager local"


def test_a_run_of_a_zip_is_started_again_from_the_zip(store):
    tags = {"mlflow.source.name": "/home/me/slmflow.zip", "mlflow.project.entryPoint": "register"}
    command = start_command(driver(**tags, **{"mlflow.project.env": "uv"}), {})
    assert command == "mlflow run /home/me/slmflow.zip -e register --env-manager uv"


def test_a_job_of_mlflows_own_backend_is_started_again_as_one_and_not_from_the_clusters_folder(store):
    tags = {"mlflow.project.entryPoint": "register", JOB_TAG: "https://workspace/#job/run/1"}
    backend = "-e register -b databricks --backend-config databricks/backend.json --env-manager uv"
    clone = driver(**tags, **{"mlflow.source.name": "file:///home/me/slmflow"})
    assert start_command(clone, {}) == f"mlflow run /home/me/slmflow {backend}"
    packed = driver(**tags, **{"mlflow.source.name": "/tmp/tmp.Xy/slmflow.zip", COMMIT_TAG: "c" * 40})
    assert start_command(packed, {}) == f"mlflow run '<clone at {'c' * 40}>' {backend}"


def test_the_line_that_resumes_has_no_password_of_a_git_address(store):
    tags = {"mlflow.source.name": "https://me:planted@git.example/x", "mlflow.source.git.commit": "abc"}
    assert start_command(driver(**tags), {}) == "mlflow run https://git.example/x -v abc --env-manager local"


def test_what_mlflow_put_on_a_run_of_a_git_address_loses_its_password(store, monkeypatch):
    tags = {
        "mlflow.source.name": "https://me:planted@git.example/x#sub",
        "mlflow.source.git.repoURL": "https://planted@git.example/x",
        "mlflow.user": "me@example.com",
    }
    run = driver(**tags)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    with active_run("fetch") as active:
        assert active.data.tags["mlflow.source.name"] == "https://git.example/x#sub"
    kept = MlflowClient().get_run(run.info.run_id).data.tags
    assert "planted" not in str(kept)
    assert kept["mlflow.user"] == "me@example.com"
