"""At a sweep's end the recommended version becomes champion, once; rollback leads back to before it."""

import json
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient

from driver import graph
from slmflow.compose import compose
from slmflow.config import Promote
from slmflow.registry.aliases import promote, roll_back, standing
from slmflow.sweep import variants
from slmflow.workflow import promotion
from slmflow.workflow.conclusion import compared, promote_all
from slmflow.workflow.item import State
from slmflow.workflow.lookup import open_store
from slmflow.workflow.plan import make_plan
from slmflow.workflow.promotion import Recommended, promote_recommended
from slmflow.workflow.report import finish
from tests.comparison.made import evaluation
from tests.registry.conftest import NAME, whole
from tests.workflow.made_runs import finished

GATE = compose().config.gate


@pytest.fixture
def sweep(store, monkeypatch):
    """Version 1 was champion before; the sweep registered 2, 3 and 4, the last of them as challenger."""
    monkeypatch.setattr(promotion, "is_intact", whole)
    client = MlflowClient()
    client.create_registered_model(NAME)
    for number in range(4):
        client.create_model_version(NAME, source=f"s3://nowhere/{number}")
    promote(client, NAME, "1", None, whole)
    client.set_registered_model_alias(NAME, "challenger", "4")
    return Recommended(NAME, "3", evaluation("int8_cpu", fingerprint="g"), None, frozenset({"2", "4"}))


def aliases(name=NAME):
    now = standing(MlflowClient(), name)
    return now.champion, now.previous, now.challenger


def test_it_is_promoted_over_the_champion_of_before_and_rollback_leads_back(sweep):
    (said,) = promote_recommended(sweep, GATE)
    assert said == f"{NAME} v3 is recommended and champion, previous is v1"
    assert aliases() == ("3", "1", None)
    assert promote_recommended(sweep, GATE) == []
    assert aliases() == ("3", "1", None)
    roll_back(MlflowClient(), NAME, whole)
    assert aliases() == ("1", "3", None)
    assert "rolled back" in promote_recommended(sweep, GATE)[0]
    assert aliases() == ("1", "3", None)


def test_where_promotion_is_manual_it_is_the_challenger(sweep):
    (said,) = promote_recommended(sweep, replace(GATE, promote=Promote.manual))
    assert said == f"{NAME} v3 is recommended and challenger: gate.promote=manual"
    assert aliases() == ("1", None, "3")


def test_what_misses_the_gate_against_the_champion_is_the_challenger(sweep, monkeypatch):
    slow = compose(overrides="gate.min_decode_tokens_per_second=1e9").config.gate
    (said,) = promote_recommended(sweep, slow)
    assert "recommended and challenger: the gate was missed: decode_tokens_per_second" in said
    assert aliases() == ("1", None, "3")


def test_a_challenger_that_is_none_of_the_sweeps_stays(sweep):
    stranger = replace(sweep, others=frozenset({"2"}))
    promote_recommended(stranger, GATE)
    assert aliases() == ("3", "1", "4")


@pytest.fixture
def items(store, monkeypatch):
    """The plan of a sweep of three exports, done by hand: a run and a version each."""
    monkeypatch.setattr(promotion, "is_intact", whole)
    client = MlflowClient()
    plan = make_plan("register", variants("tiny_phi3", "fp32_cpu,int8_cpu,int4_cpu"), open_store("0"), graph)
    for name in (NAME.replace("tiny", "tiny-phi3"), "tiny-phi3-pipeline"):
        client.create_registered_model(name)
        client.create_model_version(name, source="s3://nowhere/before")
        promote(client, name, "1", None, whole)
    made = {"fp32_cpu": (0.0, 20.0), "int8_cpu": (0.004, 170.0), "int4_cpu": (0.3, 230.0)}
    pipeline = str(client.create_model_version("tiny-phi3-pipeline", source="s3://nowhere/p").version)
    for item in plan:
        export = item.composition.choices["export"]
        kl, speed = made[export]
        item.state = State.done
        onnx = item.node.name == "evaluate_onnx"
        figures = evaluation(export, kl=kl, speed=speed, fingerprint=export) if onnx else evaluation()
        files = {"evaluation.json": json.dumps(figures)}
        if item.node.step == "register":
            assert item.composition.config.gate.promote is Promote.manual
            number = str(
                client.create_model_version("tiny-phi3-onnx", source=f"s3://nowhere/{export}").version
            )
            client.set_registered_model_alias("tiny-phi3-onnx", "challenger", number)
            client.set_registered_model_alias("tiny-phi3-pipeline", "challenger", pipeline)
            versions = {"onnx": ("tiny-phi3-onnx", number), "pipeline": ("tiny-phi3-pipeline", pipeline)}
            registered = {
                who: {"name": name, "version": at, "alias": "challenger"}
                for who, (name, at) in versions.items()
            }
            verdicts = {who: {"word": "pass"} for who in versions}
            files = {"gate.json": json.dumps({"registered": registered, "verdicts": verdicts})}
        item.run_id = finished(item.node.step, files).info.run_id
    return plan


def test_of_a_sweep_the_recommended_version_and_its_pipeline_are_champions_and_nobody_else(items, capsys):
    with mlflow.start_run() as parent:
        finish(parent, items, whole=True)
    assert aliases("tiny-phi3-onnx") == ("3", "1", None)
    assert aliases("tiny-phi3-pipeline") == ("2", "1", None)
    shown = capsys.readouterr().out
    assert "tiny-phi3-onnx v3 @champion" in shown
    assert shown.count("tiny-phi3-onnx v3 @champion") == 1
    assert "v4 @" not in shown
    assert "models:/tiny-phi3-onnx@champion" in shown
    before = aliases("tiny-phi3-onnx")
    with mlflow.start_run() as parent:
        finish(parent, items, whole=True)
    assert aliases("tiny-phi3-onnx") == before


def test_an_interrupted_sweep_promotes_nothing(items):
    with mlflow.start_run() as parent:
        finish(parent, items, whole=False)
    assert aliases("tiny-phi3-onnx") == ("1", None, "4")


def test_a_comparison_that_fails_is_told_and_costs_no_report(items, monkeypatch, capsys):
    def fails(*arguments):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("slmflow.comparison.files.make_table", fails)
    with mlflow.start_run() as parent:
        finish(parent, items, whole=True)
    assert "not compared, nothing is promoted: ZeroDivisionError: of ours" in capsys.readouterr().out
    kept = {one.path for one in MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"report.md", "report.html", "comparison_error.txt"} <= kept
    assert aliases("tiny-phi3-onnx") == ("1", None, "4")


def test_what_the_sweep_swept_is_the_label_and_what_was_left_out_is_in_the_comparison(items):
    for item in items:
        item.variant += " evaluate.windows=2"
    with mlflow.start_run() as parent:
        done = compared(items, ("export=gguf_cpu is left out: the model is no GGUF file.",))
    promote_all(done)
    assert sorted(done.labels.values()) == ["fp32_cpu", "int4_cpu", "int8_cpu", "pipeline float32"]
    text = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/comparison.md")
    assert "export=gguf_cpu is left out" in text
