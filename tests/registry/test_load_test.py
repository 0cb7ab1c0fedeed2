"""What is registered loads and answers where only its requirements are installed."""

import shutil
from pathlib import Path

import mlflow
import pytest

from slmflow.compose import compose
from slmflow.config import PackageConfig
from slmflow.environments import maker
from slmflow.errors import SlmflowError
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.registry.load_test import Loaded, load_test


def gate(mode):
    return compose(overrides=f"gate.load_test={mode}").config.gate


@pytest.fixture
def environments(tmp_path, monkeypatch):
    monkeypatch.setenv(maker.FOLDER, str(tmp_path / "environments"))
    return tmp_path / "environments"


@pytest.fixture(scope="module")
def model(tiny_onnx, tmp_path_factory):
    """The folder of a packaged model, away from any store."""
    folder = tmp_path_factory.mktemp("model")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with mlflow.start_run():
        model_id = log_onnx_model(tiny_onnx, "tiny", PackageConfig(), folder / "scratch", {})
    location = mlflow.MlflowClient().get_logged_model(model_id).artifact_location
    mlflow.set_tracking_uri(None)
    return Path(location.removeprefix("file://"))


def test_a_packaged_model_answers_with_its_requirements_alone_and_is_asked_once(model, environments):
    said = load_test(model, "f1", gate("linked"))
    assert said.words == "loads in an environment of its requirements alone, linked from here"
    assert (said.mode, said.passed) == ("linked", True)
    (made,) = environments.iterdir()
    assert not list(made.glob("lib/python*/site-packages/torch"))
    assert not list(made.glob("lib/python*/site-packages/slmflow"))
    assert [path.name for path in (made / "passed").iterdir()] == ["f1"]
    (made / "bin" / "python").rename(made / "bin" / "gone")
    (made / "bin" / "python").symlink_to("/bin/false")
    assert load_test(model, "f1", gate("linked")) == said
    with pytest.raises(SlmflowError, match="does not load and answer"):
        load_test(model, "f2", gate("linked"))


def test_a_model_that_needs_more_than_it_says_is_refused_in_one_line(model, environments, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "requirements.txt").unlink()
    lines = (model / "requirements.txt").read_text().splitlines()
    (copy / "requirements.txt").write_text("\n".join(line for line in lines if "onnxruntime" not in line))
    with pytest.raises(
        SlmflowError, match="requirements alone .*ModuleNotFoundError: No module named"
    ) as error:
        load_test(copy, "f1", gate("linked"))
    assert "\n" not in str(error.value)
    assert load_test(copy, "f1", gate("here")).words == "loads in a fresh process of this environment"


def test_off_tests_nothing(tmp_path):
    assert load_test(tmp_path / "none", "f1", gate('"off"')) == Loaded("off", False, "not tested")


def test_a_model_that_does_not_answer_in_time_is_refused_in_one_line(model, monkeypatch, tmp_path):
    endless = tmp_path / "probe.py"
    endless.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("slmflow.registry.load_test.PROBE", endless)
    monkeypatch.setattr("slmflow.registry.load_test.PROBE_SECONDS", 0.5)
    with pytest.raises(SlmflowError, match=r"did not load and answer within 0.5 seconds"):
        load_test(model, "f1", gate("here"))
