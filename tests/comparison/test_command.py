"""`compare` takes finished evaluations, or the drivers that made them, and refuses the rest in one line."""

import json

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.commands.compare import run
from slmflow.errors import SlmflowError
from tests.comparison.made import evaluation, items


@pytest.fixture
def make(store):
    def made(value=None, step="evaluate", status="FINISHED", kind="step", table=None, plan=None):
        with mlflow.start_run() as active:
            mlflow.set_tags({"slmflow.step": step, "slmflow.kind": kind})
            for name, content in (("evaluation.json", value), ("items.json", table), ("plan.json", plan)):
                if content is not None:
                    mlflow.log_text(json.dumps(content), name)
        MlflowClient().set_terminated(active.info.run_id, status)
        return active.info.run_id

    return made


def compared():
    """What the newest run of the command left."""
    (found,) = mlflow.search_runs(filter_string="tags.`slmflow.kind` = 'command'", output_format="list")
    return json.loads(mlflow.artifacts.load_text(f"{found.info.artifact_uri}/comparison.json"))


def test_two_evaluations_are_compared_with_their_items(make, capsys):
    one = make(evaluation(size=5e8), table=items(True, False))
    other = make(evaluation("int8_cpu"), table=items(True, True))
    assert run([f"run_ids={one},{other}"]) == 0
    found = compared()
    assert [candidate["run_id"] for candidate in found["candidates"]] == [one, other]
    assert found["flips"][0]["gained"] == ["int8_cpu"]
    assert capsys.readouterr().out.rstrip().endswith(found["recommendation"])


def test_a_drivers_run_stands_for_what_it_evaluated_and_nothing_counts_twice(make):
    one, other = make(evaluation()), make(evaluation("int8_cpu"))
    plan = [
        {"step": "fetch", "name": "fetch", "run_id": "f"},
        {"step": "evaluate", "name": "a", "run_id": one},
        {"step": "evaluate", "name": "b", "run_id": other},
    ]
    driver = make(kind="driver", step="register", plan=plan)
    assert run([f"run_ids={driver}, {one} {other}"]) == 0
    assert len(compared()["candidates"]) == 2


def test_what_cannot_be_compared_is_said_in_a_line_before_a_run_is_made(make):
    good = make(evaluation())
    cases = {
        "": "give the ids",
        "deadbeef": "run_ids=deadbeef: give the ids",
        good: "that is one evaluation",
        f"{good},{'0' * 32}": "there is no such run",
        f"{good},{make(step='fetch')}": "is no evaluation",
        f"{good},{make(evaluation(), status='FAILED')}": "is FAILED, not FINISHED",
        make(kind="driver", step="register", plan=[]): "evaluated nothing",
    }
    for words, why in cases.items():
        with pytest.raises(SlmflowError, match=why):
            run([f"run_ids={words}"])
    assert mlflow.search_runs(filter_string="tags.`slmflow.kind` = 'command'", output_format="list") == []
