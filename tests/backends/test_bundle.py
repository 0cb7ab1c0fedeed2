"""databricks.yml and databricks/backend.json are what the service takes, and say what the graph says."""

import json
import os
import re
import subprocess

import pytest
from databricks.bundles.jobs import Job
from databricks.sdk.service.compute import ClusterSpec, Library

from driver import graph
from slmflow.workflow.checkout import SECRET_NAMES
from slmflow.workflow.closure import ROOT
from slmflow.workflow.graph import needed_for
from tests.backends.bundle import bundle

JOBS = ["register", "register_on_cluster"]


def job(name):
    return bundle()["resources"]["jobs"][name]


@pytest.mark.parametrize("name", JOBS)
def test_each_job_is_of_the_published_schema(name):
    assert Job.from_dict(job(name)).tasks


def test_the_published_schema_refuses_what_it_does_not_know():
    wrong = job("register")
    wrong["tasks"][0]["spark_python_task"]["parameter"] = []
    with pytest.raises(ValueError, match="Unexpected field 'parameter'"):
        Job.from_dict(wrong)


@pytest.mark.parametrize("name", JOBS)
def test_the_tasks_are_the_steps_in_the_order_of_the_graph(name):
    nodes = needed_for("register", graph())
    needs: dict[str, set[str]] = {}
    for node in nodes:
        mine = {need.step for need in node.needs.values()} - {node.step}
        needs.setdefault(node.step, set()).update(mine)
    tasks = {t["task_key"]: {d["task_key"] for d in t.get("depends_on", [])} for t in job(name)["tasks"]}
    assert tasks.keys() == needs.keys()
    for step, wanted in needs.items():
        assert wanted <= reached(tasks, step), f"{step} waits for {wanted}"


def reached(tasks, step):
    return tasks[step].union(*(reached(tasks, before) for before in tasks[step]))


@pytest.mark.parametrize("name", JOBS)
def test_every_task_runs_its_own_step_on_one_compute_and_is_repeated(name):
    for task in job(name)["tasks"]:
        words = task["spark_python_task"]["parameters"]
        assert words[words.index("--") + 1] == task["task_key"]
        assert len({"environment_key", "job_cluster_key"} & task.keys()) == 1
        assert task["max_retries"] == 1


def test_every_variable_of_the_bundle_is_declared_and_used():
    text = (ROOT / "databricks.yml").read_text()
    assert set(re.findall(r"\$\{var\.(\w+)\}", text)) == set(bundle()["variables"])


def test_the_backend_configuration_is_a_cluster_and_libraries():
    config = json.loads((ROOT / "databricks" / "backend.json").read_text())
    assert config.keys() == {"new_cluster", "libraries"}
    cluster = config["new_cluster"]
    assert ClusterSpec.from_dict(cluster).as_dict() == cluster, "no key is lost, so none is misspelt"
    assert [Library.from_dict(one).as_dict() for one in config["libraries"]] == config["libraries"]
    (uv,) = config["libraries"]
    assert uv["pypi"]["package"] in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_no_file_that_is_named_as_credentials_are_nor_any_store_is_brought_to_the_workspace():
    excluded = bundle()["sync"]["exclude"]
    for pattern in SECRET_NAMES:
        assert f"**/{pattern}" in excluded
    for own in (".venv/**", "mlflow.db*", "mlruns/**", "mlartifacts/**"):
        assert own in excluded


@pytest.mark.parametrize("name", [".env", ".env.local", ".netrc", "deploy.pem", "mlflow.db-wal", ".venv"])
def test_git_does_not_offer_what_is_private(name):
    ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT)
    assert ignored.returncode == 0


MAKE_DATABRICKS = ["make", "-o", ".venv/.installed", "databricks", "ACTIVATE=true"]


def made(tmp_path, **more) -> subprocess.CompletedProcess[str]:
    """`make databricks` with a stand-in for mlflow that only says what it is given."""
    (tmp_path / "mlflow").write_text('#!/bin/sh\nls -l "$2" >/dev/null && echo "mlflow $*"\n')
    (tmp_path / "mlflow").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TMPDIR": str(tmp_path / "tmp"), **more}
    return subprocess.run(MAKE_DATABRICKS, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_make_databricks_tells_what_it_sends_and_leaves_nothing_behind(tmp_path):
    done = made(tmp_path, MLFLOW_TRACKING_URI="databricks")
    assert done.returncode == 0, done.stderr
    assert "-e register -b databricks" in done.stdout
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    changed = len(status.splitlines())
    assert (f"{changed} changed or new files are not sent" in done.stdout) == bool(changed)
    assert not list((tmp_path / "tmp").iterdir())


def test_make_databricks_refuses_an_address_with_a_password(tmp_path):
    done = made(tmp_path, MLFLOW_TRACKING_URI="https://me:planted@host")
    assert done.returncode != 0
    assert "MLFLOW_TRACKING_URI holds a password" in done.stderr
    assert "planted" not in done.stdout + done.stderr
