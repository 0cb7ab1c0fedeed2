"""databricks.yml and databricks/backend.json are what the service takes, and say what the graph says."""

import json
import re

import pytest
from databricks.bundles.jobs import Job
from databricks.sdk.service.compute import ClusterSpec, Library

from slmflow.workflow.closure import ROOT
from slmflow.workflow.graph import graph
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
    nodes = graph(with_pipeline=True)
    steps = {node.name: node.step for node in nodes}
    needs: dict[str, set[str]] = {}
    for node in nodes:
        mine = {steps[need] for need in node.needs.values()} - {node.step}
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
