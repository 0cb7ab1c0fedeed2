"""What is registered loads and answers where only its requirements are installed."""

import shutil
from importlib.metadata import distribution
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
import mlflow
import pytest

from slmflow.compose import compose
from slmflow.config import PackageConfig
from slmflow.errors import SlmflowError
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.registry import environment
from slmflow.registry.environment import COMPLETE, closure, installed_environment, linked_environment
from slmflow.registry.load_test import Loaded, load_test


def gate(mode):
    return compose(overrides=f"gate.load_test={mode}").config.gate


@pytest.fixture
def environments(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.FOLDER, str(tmp_path / "environments"))
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


def test_the_closure_is_all_that_is_required_and_no_more():
    found = closure("hydra-core # why\nnumpy\n\n")
    assert set(found) == {"hydra-core", "omegaconf", "antlr4-python3-runtime", "pyyaml", "packaging", "numpy"}


@pytest.mark.parametrize("requirements", ["numpy==0.1", "nobody-has-this", "-r other.txt", "numpy==="])
def test_what_is_not_installed_here_as_asked_cannot_be_linked(requirements, environments):
    assert closure(requirements) is None
    assert linked_environment(requirements) is None
    assert not environments.exists()


def test_an_extra_brings_what_it_requires():
    assert "requests" not in closure("packaging")
    plain, extra = closure("uvicorn"), closure("uvicorn[standard]")
    assert extra is None or set(plain) < set(extra)


def test_an_environment_is_made_once_and_again_where_a_crash_left_half_of_it(environments):
    first = linked_environment("jinja2")
    stamp = (first / COMPLETE).stat().st_mtime_ns
    assert linked_environment("jinja2") == first
    assert (first / COMPLETE).stat().st_mtime_ns == stamp
    (first / COMPLETE).unlink()
    (module,) = first.glob("lib/python*/site-packages/jinja2/__init__.py")
    module.unlink()
    assert linked_environment("jinja2") == first
    assert module.exists()
    assert distribution("jinja2").locate_file("jinja2/__init__.py").exists()


def test_what_python_compiled_here_is_linked_too_though_the_installer_lists_none_of_it(environments):
    compiled = Path(cache_from_source(jinja2.__file__))
    assert compiled.exists()
    (linked,) = linked_environment("jinja2").glob(
        f"lib/python*/site-packages/jinja2/__pycache__/{compiled.name}"
    )
    assert linked.samefile(compiled)


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


@pytest.mark.slow
def test_an_installation_that_fails_is_one_clear_line_and_leaves_nothing(environments, monkeypatch):
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(
        SlmflowError, match="the packaged requirements cannot be installed: .*nobody"
    ) as error:
        installed_environment("nobody-has-this==1.0")
    assert "\n" not in str(error.value)
    assert list(environments.iterdir()) == []
