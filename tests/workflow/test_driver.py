"""What a driver does with a step that ends otherwise than done, and what it says at its own end."""

import mlflow
import pytest
from mlflow import MlflowClient

from driver import graph
from slmflow.errors import SlmflowError
from slmflow.sweep import variants
from slmflow.workflow import driver as driver_module
from slmflow.workflow.driver import drive
from slmflow.workflow.ending import PRIVATE, warn_of_private_files
from slmflow.workflow.launch import JOB_TAG
from slmflow.workflow.liveness import heartbeat
from slmflow.workflow.runs import ERROR_TAG

AWAY = "tracking server http://127.0.0.1:9: no answer (Read timed out); when it is back, the same command goes on"


class Child:
    """A step that has ended already, as one line of the test says: its error, or none."""

    def __init__(self, run, log, error, told):
        self.log, self.error = log, error
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"some work\nslmflow fetch: {error}\n" if error else "done\n")
        if error and told:
            MlflowClient().set_tag(run.info.run_id, ERROR_TAG, error)
        MlflowClient().set_terminated(run.info.run_id, "FAILED" if error else "FINISHED")

    def heartbeat(self):
        return heartbeat()

    def poll(self):
        return 1 if self.error else 0

    def new_output(self):
        return b""

    def ending(self, status):
        return f"exit status {status}"

    def interrupt(self):
        pass

    def stop(self):
        pass


class Backend:
    """A backend whose steps end in the order of the errors; a slot itself."""

    def __init__(self, errors, told=True):
        self.errors, self.told, self.started = list(errors), told, []

    def slot(self):
        return self

    def release(self):
        pass

    def start(self, run, step, parameters, log):
        self.started.append(run.info.run_id)
        error = self.errors.pop(0)
        if isinstance(error, Exception):
            raise error
        return Child(run, log, error, self.told)


@pytest.fixture
def drive_fetch(store, monkeypatch):
    monkeypatch.setattr(driver_module, "RESTART_SECONDS", 0.3)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # which a driver sets for its children
        monkeypatch.setenv(name, mlflow.get_tracking_uri())

    def run(backend, **tags):
        monkeypatch.setattr(driver_module, "backend_of", lambda config: backend)
        with mlflow.start_run(tags=tags) as parent:
            chosen = variants("tiny_phi3", "", "+experiment=tiny")
            drive("fetch", chosen, {"model": "tiny_phi3"}, parent, graph)

    return run


@pytest.mark.parametrize("told", [True, False], ids=["by its run", "by its log only"])
def test_a_step_that_the_server_did_not_answer_is_started_once_more(drive_fetch, capsys, told):
    backend = Backend([AWAY, None], told)
    drive_fetch(backend)
    failed, done = backend.started
    assert [MlflowClient().get_run(run_id).info.status for run_id in (failed, done)] == ["FAILED", "FINISHED"]
    assert "started again in 0 s" in capsys.readouterr().err


def test_one_that_it_does_not_answer_again_has_failed_and_the_command_that_resumes_is_printed(
    drive_fetch, capsys
):
    backend = Backend([AWAY, AWAY, None])
    with pytest.raises(SlmflowError, match="fetch failed: tracking server"):
        drive_fetch(backend)
    assert len(backend.started) == 2
    said = capsys.readouterr().err
    assert "to go on where it stopped:" in said
    assert "-e fetch --env-manager local -P model=tiny_phi3" in said


def test_a_step_that_failed_by_itself_is_not_started_again(drive_fetch):
    backend = Backend(["model.source.path: not there", None])
    with pytest.raises(SlmflowError, match="not there"):
        drive_fetch(backend)
    assert len(backend.started) == 1


def test_what_stops_the_driver_itself_after_the_plan_prints_the_command_too(drive_fetch, capsys):
    with pytest.raises(SlmflowError, match="could not be uploaded"):
        drive_fetch(Backend([SlmflowError("the code could not be uploaded")]))
    assert "to go on where it stopped:" in capsys.readouterr().err


def test_a_job_warns_of_what_mlflow_packed_with_it_and_says_nothing_else(
    drive_fetch, tmp_path, capsys, monkeypatch
):
    seen = []
    monkeypatch.setattr(driver_module, "warn_of_private_files", lambda: seen.append(True))
    drive_fetch(Backend([None]))
    assert not seen
    drive_fetch(Backend([None]), **{JOB_TAG: "https://workspace/#job/run/1"})
    assert seen
    capsys.readouterr()
    (clone := tmp_path / "clone").mkdir()
    warn_of_private_files(clone)
    assert not capsys.readouterr().err
    for name in PRIVATE:
        (clone / name).touch()
    warn_of_private_files(clone)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(name in line for name in (*PRIVATE, "make databricks"))
