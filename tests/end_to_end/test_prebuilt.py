"""A finished genai folder through the whole workflow, with and without the weights that it was made from."""

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.workflow import runs
from tests.conftest import run_warm, store_uri

pytestmark = pytest.mark.slow


def run_prebuilt(folder, store, base, more=""):
    words = (
        f"export=prebuilt model.source.path={folder} model.name=tiny model.base={base} evaluate=quick {more}"
    )
    done = run_warm(["-P", "model=local", "-P", f"overrides={words}"], store)
    assert done.returncode == 0, done.stderr
    mlflow.set_tracking_uri(store_uri(store))
    (parent,) = MlflowClient().search_runs(["0"], "tags.slmflow.kind = 'driver'")
    children = {child.info.run_name: child for child in runs.children(parent)}
    mlflow.set_tracking_uri(None)
    return done.stdout, children


def test_with_its_base_the_folder_is_held_against_the_weights_it_was_made_from(tiny_onnx, tmp_path):
    shown, children = run_prebuilt(tiny_onnx, tmp_path, "tiny_phi3")
    assert "tiny-pipeline v1 @champion" in shown
    assert "tiny-onnx v1 @champion" in shown
    evaluation = runs.json_artifact(children["evaluate_onnx"], "evaluation.json")
    assert evaluation["fidelity"]["kl_mean"] < 1e-6
    assert runs.json_artifact(children["export_onnx"], "export.json")["proofs"]["reference"] is True


def test_without_a_base_there_is_the_onnx_candidate_only_and_fidelity_is_not_measured(tiny_onnx, tmp_path):
    shown, children = run_prebuilt(tiny_onnx, tmp_path, "null", "gate=warn")  # enforced, it would be a miss
    assert list(children) == ["fetch", "export_onnx", "log_onnx", "evaluate_onnx", "register"]
    assert "not measured" in shown
    assert "tiny-onnx v1 @champion" in shown
    assert runs.json_artifact(children["evaluate_onnx"], "evaluation.json")["fidelity"] is None
