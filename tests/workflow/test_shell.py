"""Entry points check what they are given before they work, and say what is wrong in one line."""

import json
import re
from importlib import import_module

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.errors import SlmflowError, one_line
from slmflow.workflow import runs
from slmflow.workflow.fingerprint import configuration_of
from slmflow.workflow.shell import main
from slmflow.workflow.steps import STEPS
from slmflow.workflow.tags import KEY_TAG, KIND_TAG, STEP_TAG
from tests.conftest import store_uri
from tests.workflow.made_runs import finished


def step_run(step, status="FINISHED", words=None, upstream=None):
    """A finished step as far as later steps look at it, composed from `words`."""
    composition = compose(**(words or {"model": "tiny_phi3"}))
    named = {**composition.choices, "overrides": composition.overrides}
    config = configuration_of(STEPS[step], composition)
    run_id = finished(step, {}, key=f"key of {step}", upstream=upstream, config=config).info.run_id
    client = MlflowClient()
    for word, tag in runs.WORD_TAGS.items():
        client.set_tag(run_id, tag, named[word])
    client.set_terminated(run_id, status)
    return run_id


@pytest.fixture
def at_work(monkeypatch):
    """Give a step other work to do, and run its entry point as its driver's child."""

    def run(step, work, argv, *, launched=True):
        monkeypatch.setattr(import_module(f"steps.{step}"), "work", work)
        if launched:
            child = MlflowClient().create_run("0", tags={KIND_TAG: "step", STEP_TAG: step})
            monkeypatch.setenv("MLFLOW_RUN_ID", child.info.run_id)
        return main(step, argv)

    return run


def never(context):
    raise AssertionError("work began")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["modle=x"], "unknown argument 'modle=x': did you mean model=…? evaluate takes "),
        (["fetch_run=x"], "unknown argument 'fetch_run=x'"),
        (["tiny_phi3"], "unknown argument 'tiny_phi3'"),
        (["model=phi9"], "model=phi9 is unknown"),
        (["overrides=evaluate.windows=none"], "must be of type integer"),
        (["reference_run=abc"], "reference_run is given, but logged_run is not"),
    ],
)
def test_bad_arguments_are_refused_before_a_run_exists(store, capsys, argv, said):
    assert main("evaluate", argv) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert MlflowClient().search_runs(["0"]) == []


def test_an_unknown_upstream_id_is_refused(store, capsys):
    assert main("export_onnx", ["model=tiny_phi3", "fetch_run=0123456789abcdef0123456789abcdef"]) == 1
    assert "fetch_run=0123456789abcdef0123456789abcdef: no such run in sqlite:///" in capsys.readouterr().err


def test_an_upstream_run_of_another_step_or_state_is_refused(store):
    with pytest.raises(SlmflowError, match="that run is log_onnx, but fetch is needed"):
        runs.upstream("fetch_run", step_run("log_onnx"))
    with pytest.raises(SlmflowError, match="that fetch run is FAILED, not FINISHED"):
        runs.upstream("fetch_run", step_run("fetch", "FAILED"))
    with mlflow.start_run() as foreign:
        pass
    with pytest.raises(SlmflowError, match="that run is no step of this project"):
        runs.upstream("fetch_run", foreign.info.run_id)


def test_a_drivers_id_stands_for_the_step_that_it_made_or_reused(store):
    with mlflow.start_run() as parent:
        mlflow.set_tags({KIND_TAG: "driver", STEP_TAG: "register"})
    parent_id = parent.info.run_id
    with pytest.raises(SlmflowError, match="a driver's run with 0 fetch steps"):
        runs.upstream("fetch_run", parent_id)
    fetch = step_run("fetch")
    items = [{"step": "fetch", "run_id": fetch}, {"step": "export_onnx", "run_id": None}]
    MlflowClient().log_text(parent_id, json.dumps(items), "plan.json")
    assert runs.upstream("fetch_run", parent_id).info.run_id == fetch


def test_a_step_that_fails_says_why_on_its_run_its_card_and_in_its_status(store, capsys, at_work):
    def fail(context):
        raise SlmflowError("the reason\nand more")

    assert at_work("fetch", fail, ["model=tiny_phi3"]) == 1
    assert "slmflow fetch: the reason" in capsys.readouterr().err
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags[runs.ERROR_TAG] == "the reason"
    card = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/card.html")
    assert "in fail" in card, "the traceback"


def test_a_defect_keeps_its_traceback_on_the_run(store, at_work):
    def defect(context):
        raise KeyError("oops")

    with pytest.raises(KeyError):
        at_work("fetch", defect, ["model=tiny_phi3"])
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags[runs.ERROR_TAG] == "KeyError: 'oops'"
    assert "in defect" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/traceback.txt")


def test_scratch_is_gone_after_the_step_and_what_it_left_is_indexed(store, at_work):
    seen = []

    def work(context):
        (context.scratch / "file").write_text("x")
        (context.outputs / "left" / "deep").mkdir(parents=True)
        (context.outputs / "left" / "deep" / "file").write_text("y")
        seen.append(context.scratch)

    assert at_work("fetch", work, ["model=tiny_phi3"]) == 0
    assert not seen[0].exists()
    (run,) = MlflowClient().search_runs(["0"])
    record = runs.json_artifact(run, "record.json")
    assert record["seconds"] >= 0
    assert record["peak_resident_bytes"] > 1e6
    assert (runs.artifact(run, "left") / "deep" / "file").read_text() == "y"
    assert "name: tiny-phi3" in runs.local_path_of(run, "config.yaml").read_text()
    assert "left/deep/file" in runs.artifact(run, "card.html").read_text()


def test_a_step_that_fails_leaves_none_of_its_outputs(store, at_work):
    def work(context):
        (context.outputs / "half.bin").write_text("x")
        raise SlmflowError("no")

    assert at_work("fetch", work, ["model=tiny_phi3"]) == 1
    assert not list(store.rglob("half.bin"))


def test_a_relative_sqlite_store_in_another_folder_is_explained(store, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    assert main("fetch", ["model=tiny_phi3"]) == 1
    assert "a sqlite path must be absolute" in capsys.readouterr().err


def test_secrets_in_the_stores_address_are_never_shown(monkeypatch):
    for uri, shown in {
        "postgresql://me:sec/ret@host/db?password=x": "postgresql://host/db",
        "https://me:s@cret@host:5000/path?token=x": "https://host:5000/path",
        "sqlite:////a/b.db": "sqlite:////a/b.db",
        "databricks": "databricks",
    }.items():
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        assert runs.store_name() == shown


def test_an_artifact_that_is_gone_names_run_and_path(store):
    run = MlflowClient().get_run(step_run("fetch"))
    with pytest.raises(SlmflowError, match=f"fetch run {run.info.run_id}: manifest.json is gone"):
        runs.json_artifact(run, "manifest.json")


def test_local_artifacts_are_read_where_they_are(store):
    with mlflow.start_run() as active:
        mlflow.log_text("x", "a/b.txt")
    run = MlflowClient().get_run(active.info.run_id)
    assert runs.local_path_of(run, "a").is_relative_to(store)


@pytest.fixture
def composed(at_work):
    """The configuration with which a step by id would work."""

    def run(argv, step="export_onnx"):
        seen = []
        assert at_work(step, lambda context: seen.append(context.composition), argv, launched=False) == 0
        return seen[0]

    return run


def test_a_step_by_id_takes_its_upstreams_configuration_and_the_users_on_top(store, composed):
    words = {
        "model": "tiny_phi3",
        "export": "int8_cpu",
        "overrides": "model.source.seed=5 package.max_tokens=3",
    }
    fetch = step_run("fetch", words=words)
    composition = composed([f"fetch_run={fetch}", "overrides=package.max_tokens=7"])
    assert composition.choices["model"] == "tiny_phi3"
    assert composition.choices["export"] == "int8_cpu"
    assert composition.config.model.source.seed == 5
    assert composition.config.package.max_tokens == 7
    assert composed([f"fetch_run={fetch}", "overrides=model.source.seed=5"])
    assert composed([f"fetch_run={fetch}", "export=int4_cpu"]).choices["export"] == "int4_cpu"
    assert composed([f"fetch_run={fetch}", "overrides=export=int4_cpu"]).choices["export"] == "int4_cpu"


def test_an_inherited_experiment_may_be_named_again(store, composed):
    fetch = step_run("fetch", words={"overrides": "+experiment=tiny"})
    assert composed([f"fetch_run={fetch}", "overrides=+experiment=tiny"]).choices["experiment"] == "tiny"


@pytest.mark.parametrize(
    ("words", "argv", "said"),
    [
        (
            {"model": "tiny_phi3"},
            ["model=smollm2_135m"],
            r"another configuration: model\.source\.\w+ .* → .* \(there → here\)",
        ),
        (
            {"model": "hub", "overrides": "model.source.repo=org/a"},
            ["model=hub", "overrides=model.source.repo=org/b"],
            r"model\.source\.repo org/a → org/b",
        ),
        (
            {"model": "tiny_phi3", "overrides": "model.source.seed=5"},
            ["model=tiny_phi3"],
            r"model\.source\.seed 5 → 0",
        ),
    ],
)
def test_a_step_by_id_is_refused_for_another_model_than_its_upstreams(store, capsys, words, argv, said):
    fetch = step_run("fetch", words=words)
    assert main("export_onnx", [*argv, f"fetch_run={fetch}"]) == 1
    assert re.search(said, capsys.readouterr().err)


def test_two_upstreams_of_different_models_are_refused(store, capsys):
    ids = {}
    for name, seed in {"onnx": 0, "pipeline": 1}.items():
        words = {"model": "tiny_phi3", "overrides": f"model.source.seed={seed}"}
        fetch = step_run("fetch", words=words)
        logged = step_run("log_pipeline", words=words, upstream={"fetch_run": fetch})
        ids[name] = step_run("evaluate", words=words, upstream={"logged_run": logged})
    assert main("register", [f"onnx_run={ids['onnx']}", f"pipeline_run={ids['pipeline']}"]) == 1
    assert "was made from another configuration: model.source.seed 1 → 0" in capsys.readouterr().err


def test_what_was_exported_one_way_is_not_logged_as_another(store, capsys):
    export = step_run("export_onnx", words={"model": "tiny_phi3", "export": "int8_cpu"})
    assert main("log_onnx", [f"export_run={export}", "export=int4_cpu"]) == 1
    assert "another configuration: export.precision int8 → int4" in capsys.readouterr().err


def test_another_name_is_no_other_model(store, composed):
    fetch = step_run("fetch")
    composition = composed([f"fetch_run={fetch}", "overrides=model.name=renamed"])
    assert composition.config.model.name == "renamed"


def test_a_sweep_is_refused_for_a_step_by_id(store, capsys):
    fetch = step_run("fetch")
    words = "overrides=-m export=int8_cpu,int4_cpu"
    assert main("export_onnx", [f"fetch_run={fetch}", "model=tiny_phi3", words]) == 1
    assert "a step with upstream ids is one step" in capsys.readouterr().err


def test_a_child_whose_code_changed_after_the_plan_does_nothing(store, capsys, monkeypatch):
    monkeypatch.setattr(import_module("steps.fetch"), "work", never)
    child = MlflowClient().create_run("0", tags={KIND_TAG: "step", STEP_TAG: "fetch", KEY_TAG: "planned"})
    monkeypatch.setenv("MLFLOW_RUN_ID", child.info.run_id)
    assert main("fetch", ["model=tiny_phi3"]) == 1
    assert "changed after the plan was made; run again" in capsys.readouterr().err


def test_a_child_that_was_closed_as_dead_does_nothing(store, capsys, monkeypatch):
    monkeypatch.setattr(import_module("steps.fetch"), "work", never)
    child = MlflowClient().create_run("0", tags={KIND_TAG: "step", STEP_TAG: "fetch"})
    MlflowClient().set_terminated(child.info.run_id, "KILLED")
    monkeypatch.setenv("MLFLOW_RUN_ID", child.info.run_id)
    assert main("fetch", ["model=tiny_phi3"]) == 1
    assert "was closed by another driver" in capsys.readouterr().err
    assert MlflowClient().get_run(child.info.run_id).info.status == "KILLED"


def test_a_name_that_the_user_gave_to_a_run_is_kept(store):
    assert runs.is_made_up("angry-wolf-518")
    assert not runs.is_made_up("phi-test-1")
    assert not runs.is_made_up(None)


def test_errors_are_cut_to_one_line():
    assert one_line(ValueError("\n\n  a\nb")) == "ValueError: a"
    assert len(one_line(SlmflowError("x" * 900))) == 500


def test_stores_of_tests_are_their_own(store):
    assert mlflow.get_tracking_uri() == store_uri(store)
