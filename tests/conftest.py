"""Shared by all tests: a real store of their own, and tiny real models made once."""

import atexit
import contextlib
import functools
import multiprocessing.spawn
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Tests run side by side (`pytest -n`): threads of torch that wait must not keep the others' cores busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import slmflow  # switches telemetry off before anything else is imported
from slmflow.compose import compose
from slmflow.export import export_folder
from slmflow.sources import take
from slmflow.workflow.locks import INHERITED
from tests import warm

pytest_plugins = ["tests.pages", "tests.schedule"]

# Timing belongs into benchmarks/: a slow machine is no failure.
hypothesis.settings.register_profile("slmflow", deadline=None, derandomize=True)
hypothesis.settings.load_profile("slmflow")
ROOT = Path(slmflow.__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_homes(tmp_path_factory):
    """No test reads or writes the user's caches, waits for the user's own runs, or may ask a hub."""
    home = tmp_path_factory.mktemp("home")
    os.environ.update(HF_HOME=str(home / "hf"), HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    os.environ["SLMFLOW_ENVIRONMENTS"] = str(home / "environments")
    os.environ["SLMFLOW_LOCKS"] = str(home / "locks")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = (
        "false"  # seven idle processes a server, each starting Python
    )
    os.environ.pop("MLFLOW_RUN_ID", None)
    return home


def store_uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


@functools.cache
def _template() -> Path:
    """An empty MLflow store: its hundred migrations take seconds, a copy none."""
    from mlflow import MlflowClient

    folder = Path(tempfile.mkdtemp(prefix="slmflow-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.chdir(folder):
        MlflowClient(tracking_uri=store_uri(folder)).search_experiments()
    return folder


def make_store(folder: Path) -> None:
    """What MLflow would make in `folder` at its first use."""
    template = _template()
    shutil.copyfile(template / "mlflow.db", folder / "mlflow.db")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        found = database.execute("SELECT artifact_location FROM experiments").fetchall()
        assert found == [(f"{template}/mlruns/0",)]
        database.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))


@pytest.fixture(autouse=True)
def no_active_experiment():
    """`mlflow.set_experiment` outlives its test, in the module and in the environment: the next store has none."""
    yield
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        fluent._active_experiment_id = None
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(autouse=True)
def no_step_lock():
    """A step that ran in this process shares the host's step lock until the process ends: measuring would wait."""
    yield
    with contextlib.suppress(OSError, ValueError):
        os.close(int(os.environ.pop(INHERITED, "")))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty MLflow store in a folder of its own, also the working directory."""
    import mlflow

    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(tmp_path))
    mlflow.set_tracking_uri(store_uri(tmp_path))
    yield tmp_path
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def warm_children(monkeypatch):
    """Processes of Python that this process starts for the test have their libraries imported already."""
    program = warm.python()
    monkeypatch.setattr(sys, "executable", program)
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(program)
    yield
    multiprocessing.set_executable(before)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """A random model by overrides of tiny_phi3, as a Hugging Face folder; made once for each."""
    made = {}

    def make(overrides: str = "") -> Path:
        if overrides not in made:
            config = compose(model="tiny_phi3", overrides=overrides).config
            made[overrides] = take(config.model.source, tmp_path_factory.mktemp("model")).folder
        return made[overrides]

    return make


@pytest.fixture(scope="session")
def tiny(make_model) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def make_onnx(make_model, tmp_path_factory):
    """A genai folder of a random model, by variant and overrides; made once for each."""
    made = {}

    def make(export: str, overrides: str = "") -> Path:
        if (export, overrides) not in made:
            config = compose(model="tiny_phi3", export=export, overrides=overrides).config
            folder = tmp_path_factory.mktemp("onnx") / "onnx"
            export_folder(config.export, make_model(overrides), folder, tmp_path_factory.mktemp("scratch"))
            made[export, overrides] = folder
        return made[export, overrides]

    return make


@pytest.fixture(scope="session")
def tiny_onnx(make_onnx) -> Path:
    return make_onnx("fp32_cpu")


def run_project(
    arguments: list[str],
    store: Path,
    root: str | Path = ROOT,
    python: str = sys.executable,
    **environment: str,
):
    """`mlflow run` as a user types it, in the store's folder; returns the finished process."""
    if not (store / "mlflow.db").exists():
        make_store(store)
    command = [python, "-m", "mlflow", "run", str(root), *arguments]
    if "--env-manager" not in arguments:
        command += ["--env-manager", "local"]
    folders = dict.fromkeys([Path(python).parent, Path(sys.executable).parent, os.environ["PATH"]])
    path = os.pathsep.join(map(str, folders))
    env = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store_uri(store), **environment}
    return subprocess.run(command, cwd=store, env=env, capture_output=True, text=True)


def run_warm(arguments: list[str], store: Path, root: str | Path = ROOT, **environment: str):
    """As `run_project`, but by a Python that has its libraries imported: where it is not the start that is tested."""
    return run_project(arguments, store, root, warm.python(), **environment)
