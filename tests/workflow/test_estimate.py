"""The plan says about how much an evaluation will ask, before anything is done."""

import json
import re
from types import SimpleNamespace

import mlflow
import pytest
from mlflow import MlflowClient

from driver import graph
from slmflow.sweep import variants
from slmflow.workflow import estimate
from slmflow.workflow.item import State
from slmflow.workflow.lookup import open_store
from slmflow.workflow.plan import make_plan
from tests.workflow.made_runs import finished


def note(overrides=""):
    """What the plan of the default model says of its pipeline's evaluation."""
    items = make_plan("register", variants(overrides=overrides), open_store("0"), graph)
    (item,) = [item for item in items if item.name == "evaluate_pipeline"]
    assert item.state is State.run
    assert item.note in item.line
    assert [other.name for other in items if other.note] == ["evaluate_pipeline"], (
        "the others are asked the same"
    )
    return item.note


def test_a_model_of_unknown_size_is_asked_no_less_than_the_gate_needs_of_any(store):
    assert note() == (
        "asks at least 510 tokens and 151 items by the gate's margins, more as time allows "
        "(1 minute below 500 M parameters, else 10)"
    )
    assert note("evaluate.minutes=3").endswith("more as time allows (3 minutes)")
    looser = "gate.thresholds.0.max_top1_decrease=1 gate.thresholds.0.max_kl_increase=inf"
    assert note(looser).startswith("asks at least 0 tokens and 151 items")


def test_no_limit_and_a_run_to_ask_like_need_no_estimate(store):
    assert note("evaluate.minutes=null") == "asks 1,275 tokens and 250 items, if the text has so many"
    assert note("evaluate.like=abc") == "asks what run abc asked"
    assert note("evaluate.minutes=null evaluate.items=none").startswith("asks 1,275 tokens and 0 items")


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_a_known_size_gives_an_estimate_between_what_is_needed_and_all(store, monkeypatch, cores):
    monkeypatch.setattr(estimate, "physical_cores", lambda: cores)
    monkeypatch.setattr(estimate, "_parameters", lambda item, store: 135_000_000)
    said = note("evaluate.minutes=2")
    tokens, items = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:tokens|items)", said)[:2]
    )
    assert 510 <= tokens <= 1275
    assert 151 <= items <= 250
    monkeypatch.setattr(estimate, "_parameters", lambda item, store: 70_000_000_000)
    assert note().startswith("asks 765 tokens and 151 items, as the gate's margins need, which may take")


def test_the_size_is_read_where_an_earlier_run_left_it(store):
    run = finished("log_pipeline", {"logged.json": json.dumps({"parameters": 7})})

    logged = SimpleNamespace(run_id=run.info.run_id, upstream={})
    evaluate = SimpleNamespace(upstream={"logged_run": logged})
    assert estimate._parameters(evaluate, open_store("0")) == 7
    logged.run_id = None
    assert estimate._parameters(evaluate, open_store("0")) is None


def test_a_champion_is_named_with_what_it_was_asked(store):
    evaluation = {"fidelity": {"tokens": 1275.0}, "tasks": {"items": 250}}
    run = finished("evaluate", {"evaluation.json": json.dumps(evaluation)})
    client = MlflowClient(mlflow.get_tracking_uri())
    client.create_registered_model("smollm2-135m-onnx")
    client.create_model_version("smollm2-135m-onnx", "s3://nowhere", tags={"evaluate_run": run.info.run_id})
    client.set_registered_model_alias("smollm2-135m-onnx", "champion", "1")
    assert note() == "asks what smollm2-135m-onnx v1, the champion, was asked: 1,275 tokens, 250 items"
    client.delete_run(run.info.run_id)
    assert note().startswith("asks at least")
