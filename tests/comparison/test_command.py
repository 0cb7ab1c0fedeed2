"""`compare` takes finished evaluations, or the drivers that made them, and refuses the rest in one line."""

import json
import re
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.commands.compare import run
from slmflow.errors import SlmflowError
from tests.comparison.made import evaluation, items
from tests.workflow.made_runs import finished


@pytest.fixture
def make(store):
    def made(value=None, step="evaluate", status="FINISHED", kind="step", table=None, plan=None):
        contents = {"evaluation.json": value, "items.json": table, "plan.json": plan}
        texts = {name: json.dumps(content) for name, content in contents.items() if content is not None}
        run_id = finished(step, texts).info.run_id
        MlflowClient().set_tag(run_id, "slmflow.kind", kind)
        MlflowClient().set_terminated(run_id, status)
        return run_id

    return made


def commands():
    return mlflow.search_runs(filter_string="tags.`slmflow.kind` = 'command'", output_format="list")


def compared():
    """What the only run of the command left."""
    (found,) = commands()
    return json.loads(mlflow.artifacts.load_text(f"{found.info.artifact_uri}/comparison.json"))


def test_two_evaluations_are_compared_with_their_items(make, capsys):
    one = make(evaluation(size=5e8), table=items(True, False))
    other = make(evaluation("int8_cpu"), table=items(True, True))
    assert run([f"run_ids={one},{other}"]) == 0
    found = compared()
    assert [candidate["run_id"] for candidate in found["candidates"]] == [one, other]
    assert found["flips"][0]["gained"] == ["int8_cpu"]
    said, page = capsys.readouterr().out.rstrip().splitlines()[-2:]
    assert said == found["recommendation"]
    assert Path(page.removeprefix("Report: ")).name == "comparison.html"
    assert Path(page.removeprefix("Report: ")).is_file()


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
    assert commands() == []


def test_an_evaluation_that_was_deleted_damaged_or_is_none_is_refused_by_its_run_before_one_is_made(make):
    good = make(evaluation())
    gone = make(evaluation("a"))
    MlflowClient().delete_run(gone)
    altered = make(evaluation("b"))
    place = (
        Path(MlflowClient().get_run(altered).info.artifact_uri.removeprefix("file://")) / "evaluation.json"
    )
    place.chmod(0o644)
    place.write_text(json.dumps(evaluation("b", kl=0.0)))
    cases = {
        gone: f"run_ids={gone}: that run was deleted",
        altered: f"evaluate run {altered}: evaluation.json was altered",
        make(["no object"]): "evaluation.json is no JSON object",
        make({"candidate": "onnx"}): "precision must be a text",
        make({**evaluation("c"), "cost": None}): "cost must be a JSON object",
        make({**evaluation("c"), "fidelity": 3}): "fidelity must be a JSON object or null",
        make(evaluation("d"), table={"columns": ["id"], "data": []}): "must be a table with the columns",
        make(evaluation("e"), table={**items(True), "data": [["short"]]}): "a row has not a value for each",
        make(): "evaluation.json is",
    }
    for run_id, why in cases.items():
        with pytest.raises(SlmflowError, match=re.escape(why)) as error:
            run([f"run_ids={good},{run_id}"])
        assert run_id in str(error.value)
    assert commands() == []


def test_the_gate_of_the_recommendation_is_the_one_that_is_given(make, capsys):
    words = f"run_ids={make(evaluation())},{make(evaluation('int8_cpu'))}"
    run([words])
    assert "Ship int8_cpu" in capsys.readouterr().out
    run([words, "overrides=gate.min_decode_tokens_per_second=60"])
    assert "Ship none of these" in capsys.readouterr().out
    with pytest.raises(SlmflowError, match="there is no such key"):
        run([words, "overrides=gate.none=1"])
