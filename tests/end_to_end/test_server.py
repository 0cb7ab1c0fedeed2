"""The same workflow against a tracking server that hands artifacts on: nothing of it is on a local disk."""

import os
import subprocess
import sys
import time
import urllib.request

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.workflow import runs
from slmflow.workflow.item import State
from slmflow.workflow.outputs import INDEX
from tests.conftest import ROOT, run_warm
from tests.end_to_end.test_cache import ALL, WORDS, plan, states
from tests.end_to_end.test_tiny_workflow import registry
from tests.free_port import free_port

pytestmark = pytest.mark.slow


def wait_until_up(uri: str, server: subprocess.Popen) -> None:
    for _ in range(120):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not come up")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Folder and URI of `mlflow server` on loopback, with a database and artifacts of its own."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(uri, running)
        yield folder, uri
    finally:
        running.terminate()
        running.wait(30)


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    """A function that runs the project from an empty folder; the store that it sees is the server's."""
    _, uri = server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    yield lambda words, **more: run_warm(words, tmp_path, MLFLOW_TRACKING_URI=uri, **more)
    mlflow.set_tracking_uri(None)


def stored(server, run, name):
    """Where the server keeps an artifact of a run."""
    return next((server[0] / "artifacts").rglob(f"{run.info.run_id}/artifacts/{name}"))


def newest(step):
    (run,) = MlflowClient().search_runs(["0"], f"tags.slmflow.step = '{step}'", max_results=1)
    return run


def test_the_workflow_runs_is_cached_and_its_champion_loads(server, remote, tmp_path):
    done = remote(WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny-phi3-onnx v1 @champion" in done.stdout
    assert states() == dict.fromkeys(ALL, State.cached)
    before = registry(MlflowClient())
    again = remote(WORDS)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reused, run") == 7
    assert registry(MlflowClient()) == before
    assert newest("export_onnx").info.artifact_uri.startswith("mlflow-artifacts:")
    assert not (tmp_path / "mlruns").exists(), "nothing is left beside the user's work"
    answer = mlflow.pyfunc.load_model("models:/tiny-phi3-onnx@champion").predict({"prompt": "Once"})
    assert isinstance(answer[0], str)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "onnx/genai_config.json is gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "onnx/genai_config.json has"),
    ],
)
def test_an_artifact_that_the_server_lost_makes_its_step_run_again(server, remote, damage, reason):
    path = stored(server, newest("export_onnx"), "onnx/genai_config.json")
    content = path.read_bytes()
    damage(path)
    state, said = plan()["export_onnx"]
    assert state is State.run
    assert reason in said
    path.write_bytes(content)
    assert plan()["export_onnx"][0] is State.cached


def test_a_flipped_byte_is_found_by_the_step_that_reads_it_and_the_next_run_heals_it(
    server, remote, tmp_path
):
    """Sizes are all that a store tells of its artifacts, so the plan believes them; the reader hashes.

    A host that has the content already does not read it from the server, so the reader is another one.
    """
    export = newest("export_onnx")
    path = stored(server, export, "onnx/genai_config.json")
    path.write_bytes(path.read_bytes().replace(b"context_length", b"context_lengTh"))
    words = [*WORDS[:2], "-P", f"{WORDS[3]} package.top_p=0.5"]
    failed = remote(words, XDG_CACHE_HOME=str(tmp_path / "another host"))
    assert failed.returncode != 0
    said = failed.stdout + failed.stderr
    assert "onnx/genai_config.json" in said, said
    assert "run again" in said, said
    assert "onnx/genai_config.json was altered" in plan()["export_onnx"][1]
    healed = remote(words)
    assert healed.returncode == 0, healed.stdout + healed.stderr


def test_an_index_that_was_altered_on_the_server_is_not_believed(server, remote):
    path = stored(server, newest("fetch"), INDEX)
    content = path.read_text()
    path.write_text(content.replace('"size": ', '"size": 1'))
    assert f"its {INDEX} was altered" in plan()["fetch"][1]
    path.write_text(content)


def test_reproduce_finds_the_content_equal_on_the_server(server, remote):
    parent = next(
        run for run in MlflowClient().search_runs(["0"], "tags.slmflow.kind = 'driver'") if runs.items_of(run)
    )
    done = remote(["-e", "reproduce", "-P", f"run_id={parent.info.run_id}"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_was_not_told_its_name_refuses_it_in_one_line_that_says_what_to_do(tmp_path):
    port = free_port()
    uri = f"http://127.0.0.2:{port}"  # loopback too, but no name that the server knows by itself
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.2", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--workers", "1"]

    def asked(*more: str) -> subprocess.CompletedProcess[str]:
        with (tmp_path / "log").open("w") as log:
            running = subprocess.Popen([*command, *more], cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_up(uri, running)
            return subprocess.run(
                [sys.executable, "-m", "slmflow.commands.rollback", "model=none"],
                cwd=ROOT, env={**os.environ, "MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True,
            )  # fmt: skip
        finally:
            running.terminate()
            running.wait(30)

    (line,) = asked().stderr.strip().splitlines()
    assert f"tracking server {uri}: does not answer to this name (Invalid Host header)" in line
    assert line.endswith(f"start it with --allowed-hosts 127.0.0.2:{port}")
    assert "Invalid Host" not in asked("--allowed-hosts", f"127.0.0.2:{port}").stderr
