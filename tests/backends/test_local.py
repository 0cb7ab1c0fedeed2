"""A step as a process on this machine."""

import os
import signal
import time

import pytest
from mlflow import MlflowClient

from slmflow.backends import local
from slmflow.backends.local import Process


@pytest.fixture
def begin(store, tmp_path, monkeypatch):
    """Start a step that is a few lines of Python."""
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "__init__.py").touch()
    monkeypatch.setattr(local, "ROOT", tmp_path)

    def start(code) -> Process:
        (tmp_path / "steps" / "fetch.py").write_text(code)
        lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
        return Process(MlflowClient().create_run("0"), "fetch", {}, tmp_path / "log" / "output.log", lock)

    return start


def ended(process: Process) -> int:
    while (status := process.poll()) is None:
        time.sleep(0.02)
    return status


PRINTS = "import os; print(os.environ.get('MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR', 'as MLflow has it'))"


@pytest.mark.parametrize(("is_terminal", "said"), [(False, "false\n"), (True, "as MLflow has it\n")])
def test_progress_bars_are_left_out_where_nobody_watches(begin, monkeypatch, is_terminal, said):
    monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", raising=False)
    monkeypatch.setattr(local.sys.stdout, "isatty", lambda: is_terminal, raising=False)
    process = begin(PRINTS)
    assert ended(process) == 0
    assert process.new_output().decode() == said


def test_what_the_user_has_set_stays(begin, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")
    process = begin(PRINTS)
    ended(process)
    assert process.new_output() == b"true\n"


@pytest.mark.parametrize(("set_by_user", "said"), [(None, b"1000\n"), ("5", b"5\n")])
def test_waiting_threads_of_a_step_leave_the_cores_to_the_steps_beside_it(
    begin, monkeypatch, set_by_user, said
):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if set_by_user:
        monkeypatch.setenv("GOMP_SPINCOUNT", set_by_user)
    process = begin("import os; print(os.environ['GOMP_SPINCOUNT'])")
    ended(process)
    assert process.new_output() == said


def test_a_step_is_asked_to_stop_once_and_then_made_to(begin, monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.2)
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('asked', flush=True))\n"
        "print('runs', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    process = begin(code)
    while not process.log.read_text():
        time.sleep(0.02)
    process.interrupt()
    process.stop()
    assert process.poll() == -signal.SIGKILL
    assert process.log.read_text().split() == ["runs", "asked"]
