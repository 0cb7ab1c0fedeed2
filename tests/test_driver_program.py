"""`driver.py` as a Hydra program: what it shows, and that it refuses as `mlflow run` does."""

import os
import subprocess
import sys

import mlflow
import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from driver import graph
from slmflow.workflow.graph import needed_for
from slmflow.workflow.shell import main
from tests.conftest import ROOT
from tests.gguf_maker import write_gguf


def program(*words, cwd=ROOT):
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
    command = [sys.executable, str(ROOT / "driver.py"), *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_help_lists_the_groups_and_their_choices(tmp_path):
    done = program("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "gate: enforce, off, warn" in done.stdout
    assert "experiment: compare_quantization, " in done.stdout
    assert "smollm2_135m, smollm3_3b, tiny_phi3" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_configuration_of_any_words_is_shown_and_nothing_is_run(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    words = ["--cfg", "job", "model=mine", "gate.mode=warn", "gate.licences=+it's mine", "model.licence=a, b"]
    done = program(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = OmegaConf.create(done.stdout)
    assert shown.model.source.path == str(tmp_path / "mine")
    assert shown.model.licence == "a, b"
    assert shown.gate.mode == "warn"
    assert shown.gate.licences[-1] == "it's mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("words", [["gate.moed=warn"], ["--cfg", "job", "gate.moed=warn"]])
def test_a_misspelt_key_is_one_line(words):
    done = program(*words)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "gate.moed=warn: there is no such key; did you mean gate.mode?" in done.stderr


def test_the_graph_is_the_picture_of_the_readme():
    nodes = needed_for("register", graph())
    arrows = {(need.name, node.name) for node in nodes for need in node.needs.values()}
    assert arrows == {
        ("fetch", "export_onnx"),
        ("export_onnx", "log_onnx"),
        ("log_onnx", "evaluate_onnx"),
        ("fetch", "log_pipeline"),
        ("log_pipeline", "evaluate_pipeline"),
        ("evaluate_pipeline", "evaluate_onnx"),
        ("evaluate_onnx", "register"),
        ("evaluate_pipeline", "register"),
    }


def steps_run():
    runs = MlflowClient().search_runs(["0"], "tags.slmflow.kind = 'step'")
    return [run.data.tags["slmflow.step"] for run in runs]


def test_a_licence_that_only_the_file_states_is_judged_before_anything_is_made_of_it(
    store, capsys, monkeypatch
):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", mlflow.get_registry_uri())
    write_gguf(store / "tiny.gguf", licence="gemma")
    assert main("register", ["model=tiny.gguf", "evaluate=quick"]) == 1
    said = capsys.readouterr().err
    assert (
        "fetch failed: licence gemma is not in gate.licences, nothing is registered: accept it with" in said
    )
    assert "-P gate.licences=+gemma" in said
    assert steps_run() == ["fetch"]
    # Whoever registers nothing is not asked.
    assert main("fetch", ["model=tiny.gguf"]) == 0
    assert steps_run() == ["fetch"]
