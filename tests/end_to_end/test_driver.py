"""The driver under a sweep, a second driver, an interruption and sudden death."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from slmflow.artifacts import stored_json
from slmflow.workflow import liveness, runs
from slmflow.workflow.tags import KIND_TAG
from tests import warm
from tests.conftest import ROOT, run_warm, store_uri

QUICK = "evaluate=quick evaluate.new_tokens=4 evaluate.repeats=1"


def command(store, words, overrides=QUICK, python=sys.executable):
    """`mlflow run` as a process group of its own, so that a test can kill all or one of it."""
    arguments = ["-P", "model=tiny_phi3", "-P", f"overrides={overrides}", *words]
    path = f"{Path(python).parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [python, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", *arguments],
        cwd=store,
        env={**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store_uri(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A suite that a shell started with `&` ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def client(tmp_path):
    mlflow.set_tracking_uri(store_uri(tmp_path))
    yield MlflowClient()
    mlflow.set_tracking_uri(None)


def all_runs(client):
    return client.search_runs(["0"])


def steps_of(client):
    return [run for run in all_runs(client) if run.data.tags.get(KIND_TAG) == "step"]


@pytest.mark.slow
def test_a_sweep_has_one_parent_registers_each_variant_and_promotes_the_recommended_once(tmp_path, client):
    words = f"{QUICK} gate.mode=off -m export=fp32_cpu,int8_cpu"
    done = run_warm(["-P", "model=tiny_phi3", "-P", f"overrides={words}"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 variants, 11 steps" in done.stdout
    names = [run.info.run_name for run in steps_of(client)]
    assert sorted(names) == sorted(set(names))
    assert [name for name in names if name.startswith("fetch")] == ["fetch"]
    assert {name for name in names if name.startswith("export")} == {
        "export_onnx",
        "export_onnx[export=int8_cpu]",
    }
    versions = client.search_model_versions("name = 'tiny-phi3-onnx'")
    assert sorted(version.tags["precision"] for version in versions) == ["fp32", "int8"]
    assert len(client.search_model_versions("name = 'tiny-phi3-pipeline'")) == 1
    champion = client.get_model_version_by_alias("tiny-phi3-onnx", "champion")
    parent = client.get_run(steps_of(client)[0].data.tags[runs.PARENT_TAG])
    told = stored_json(parent.info.artifact_uri, "comparison.json")
    assert champion.tags["evaluate_run"] == told["recommended_run"]
    assert "challenger" not in client.get_registered_model("tiny-phi3-onnx").aliases
    aliases = client.get_registered_model("tiny-phi3-pipeline").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "1"}
    before = client.get_registered_model("tiny-phi3-onnx").aliases
    again = run_warm(["-P", "model=tiny_phi3", "-P", f"overrides={words}"], tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"tiny-phi3-onnx v{champion.version} @champion" in again.stdout
    assert client.get_registered_model("tiny-phi3-onnx").aliases == before
    assert len({run.data.tags[runs.PARENT_TAG] for run in steps_of(client)}) == 1


@pytest.mark.slow
def test_a_variant_that_fails_does_not_stop_the_others(tmp_path, client):
    words = f"{QUICK} -m gate.min_decode_tokens_per_second=1e9,0"
    done = run_warm(["-P", "model=tiny_phi3", "-P", f"overrides={words}"], tmp_path)
    assert done.returncode != 0
    assert "register failed: the gate was missed" in done.stderr
    assert client.get_model_version_by_alias("tiny-phi3-onnx", "champion").tags["gate"] == "pass"


@pytest.mark.slow
def test_two_drivers_at_once_do_each_step_once_and_register_once(tmp_path, client):
    client.search_experiments()  # the store's tables, which two processes cannot make at once
    both = [command(tmp_path, [], python=warm.python()) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    finished = [run.info.run_name for run in steps_of(client) if run.info.status == "FINISHED"]
    assert sorted(finished) == sorted(set(finished))
    assert "reused, run" in "".join(outputs)
    assert {run.info.status for run in all_runs(client)} <= {"FINISHED", "KILLED"}
    for name in ("onnx", "pipeline"):
        assert len(client.search_model_versions(f"name = 'tiny-phi3-{name}'")) == 1


def wait_for(client, condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("never came to it")


def running_steps(client):
    return [run for run in steps_of(client) if run.info.status == "RUNNING"]


def test_an_interruption_stops_the_children_and_leaves_no_run_running(tmp_path, client):
    client.search_experiments()
    process = command(tmp_path, ["-e", "log_onnx"])
    wait_for(client, lambda: running_steps(client))
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "the same command goes on where it stopped" in output
    assert {run.info.status for run in all_runs(client)} <= {"FAILED", "KILLED"}
    assert not living(tmp_path)


def living(store):
    """Processes of drivers and steps that work on this store."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("MLFLOW_TRACKING_URI") == store_uri(store)
            if mine and any("steps." in word or word == "driver.py" for word in process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def is_driver(process, parent):
    """Whether it is a driver that this parent started, and that has not ended meanwhile."""
    try:
        return "driver.py" in process.cmdline() and process.ppid() == parent
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_driver_that_is_killed_is_closed_by_the_next_and_what_it_had_is_used(tmp_path, client):
    client.search_experiments()
    process = command(tmp_path, ["-e", "log_onnx"])
    wait_for(client, lambda: any(run.info.run_name == "export_onnx" for run in running_steps(client)))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = run_warm(["-e", "log_onnx", "-P", "model=tiny_phi3", "-P", f"overrides={QUICK}"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whose process died" in done.stdout
    assert "✓ fetch  reused" in done.stdout
    assert [run.info.run_name for run in steps_of(client)].count("fetch") == 1
    assert not [run for run in all_runs(client) if run.info.status == "RUNNING"]


@pytest.mark.slow
def test_thirty_sudden_deaths_at_random_moments_cost_nothing_but_time(tmp_path, client):
    """Drivers, their children, or all at once; the seed is printed by the failure.

    One of five begins with the imports of an ordinary start, and so lives longer.
    """
    client.search_experiments()
    quick = f"{QUICK} gate.min_speed_ratio=0"  # four tokens beside processes that are killed are no speed
    dice = random.Random(20261123)
    deaths, seed = 0, 0
    while deaths < 30:
        python, longest = (sys.executable, 30) if deaths % 5 == 4 else (warm.python(), 9)
        process = command(tmp_path, [], f"{quick} model.source.seed={seed}", python)
        until = time.monotonic() + dice.uniform(longest / 10, longest)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.1)
        if process.poll() == 0:
            seed += 1  # it was faster than we: another model, so that every step is at work again
            process.communicate()
            continue
        victims = living(tmp_path)
        drivers = [victim for victim in victims if is_driver(victim, warm.fork_of(process.pid))]
        children = [victim for victim in victims if victim not in drivers]
        kind = dice.choice(("driver", "child", "all"))
        chosen = {"driver": drivers, "child": children[:1], "all": victims}[kind] or victims
        for victim in chosen:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
                victim.send_signal(signal.SIGKILL)
        if kind == "all":
            with contextlib.suppress(ProcessLookupError):  # nothing of it was left
                os.killpg(process.pid, signal.SIGKILL)
        deaths += 1
        process.communicate(timeout=300)
    wait_for(client, lambda: not living(tmp_path))
    wait_for_the_unclaimed(client)
    words = f"overrides={quick} model.source.seed={seed}"
    done = run_warm(["-P", "model=tiny_phi3", "-P", words], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [run.info.run_id for run in all_runs(client) if run.info.status == "RUNNING"]
    for name in ("onnx", "pipeline"):
        versions = client.search_model_versions(f"name = 'tiny-phi3-{name}'")
        contents = [version.tags["slmflow.fingerprint"] for version in versions]
        assert sorted(contents) == sorted(set(contents)), "no content is registered twice"
        assert len(contents) == seed + 1, "each model that was finished, and this one"
        aliases = client.get_registered_model(f"tiny-phi3-{name}").aliases
        standing = {"champion": seed + 1, **({"previous": seed} if seed else {})}
        assert {alias: int(number) for alias, number in aliases.items()} == standing
    check_every_finished_step(client)


def wait_for_the_unclaimed(client):
    """Until every run that died before a process of ours took it up is old enough to be taken for dead."""
    unclaimed = [run for run in all_runs(client) if run.info.status == "RUNNING"]
    unclaimed = [run.info.start_time for run in unclaimed if liveness.HEARTBEAT_TAG not in run.data.tags]
    old = max(unclaimed, default=0) / 1000 + liveness.UNCLAIMED_SECONDS
    time.sleep(max(0.0, old - time.time() + 0.1))


def check_every_finished_step(client):
    for run in steps_of(client):
        assert not (Path(run.info.artifact_uri).parent / "scratch").exists()
        if run.info.status == "FINISHED":
            index = runs.index_of(run)
            for path in {name.split("/")[0] for name in index["files"]} - {"model"}:
                runs.artifact(run, path)
            if index["model"]:
                runs.model_of(run)
