"""Finding runs, and telling the living from the dead."""

import json
import multiprocessing
import os
import socketserver
import subprocess
import sys
import time

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from slmflow.workflow import liveness, locks
from slmflow.workflow.ending import reap
from slmflow.workflow.liveness import HEARTBEAT_TAG, beating, close, heartbeat, is_alive, is_ours_and_dead
from slmflow.workflow.lookup import ClientStore, SqliteStore, found_of, open_store
from slmflow.workflow.runs import ERROR_TAG


@pytest.fixture
def filled(store):
    """A store with runs, a LoggedModel, versions and aliases, some of them deleted."""
    client = MlflowClient()
    client.create_registered_model("m")
    for number in range(3):
        with mlflow.start_run(run_name=f"run {number}") as run:
            mlflow.set_tags({"slmflow.key": "k" if number else "other", "slmflow.kind": "step"})
            model = mlflow.initialize_logged_model(f"model{number}")
        client.create_model_version("m", source=f"models:/{model.model_id}", run_id=run.info.run_id)
        client.set_registered_model_alias("m", "champion", str(number + 1))
    with mlflow.start_run() as deleted:
        mlflow.set_tag("slmflow.key", "k")
    client.delete_run(deleted.info.run_id)
    client.delete_model_version("m", "1")
    other = client.create_experiment("elsewhere")
    client.create_run(other, tags={"slmflow.key": "k"})
    return [model.model_id for model in client.search_logged_models(["0"])], deleted.info.run_id


def test_both_readers_of_an_embedded_store_say_the_same(filled):
    models, deleted = filled
    client = ClientStore("0")
    direct = open_store("0")
    assert isinstance(direct, SqliteStore)
    for tag, value in (("slmflow.key", "k"), ("slmflow.key", "none"), ("slmflow.kind", "step")):
        assert direct.runs(tag, value) == client.runs(tag, value)
    assert [run.name for run in direct.runs("slmflow.key", "k")] == ["run 2", "run 1"], "newest first"
    run_id = direct.runs("slmflow.key", "k")[0].run_id
    assert direct.run(run_id) == client.run(run_id) is not None
    assert direct.run(deleted) is client.run(deleted) is None
    assert direct.run("0" * 32) is client.run("0" * 32) is None
    assert direct.model_location(models[0]) == client.model_location(models[0])
    MlflowClient().delete_logged_model(models[0])
    assert direct.model_location(models[0]) is client.model_location(models[0]) is None
    for version in ("1", "2", "3", "4"):
        assert direct.has_version("m", version) == client.has_version("m", version) == (version in "23")
    assert direct.alias("m", "champion") == client.alias("m", "champion") == "3"
    assert direct.alias("m", "none") is client.alias("m", "none") is None
    assert direct.alias("none", "champion") is client.alias("none", "champion") is None
    MlflowClient().set_model_version_tag("m", "2", "evaluate_run", "abc")
    for version, key, value in (("2", "evaluate_run", "abc"), ("3", "evaluate_run", None), ("9", "x", None)):
        assert direct.version_tag("m", version, key) == client.version_tag("m", version, key) == value


def test_a_store_of_another_schema_is_left_to_mlflows_client(store, monkeypatch):
    MlflowClient().search_experiments()
    monkeypatch.setitem(__import__("slmflow.workflow.lookup").workflow.lookup.TABLES, "runs", ("no_such",))
    assert isinstance(open_store("0"), ClientStore)


def test_a_registry_elsewhere_is_left_to_mlflows_client(store, monkeypatch):
    MlflowClient().search_experiments()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////elsewhere.db")
    assert isinstance(open_store("0"), ClientStore)


def test_a_process_is_alive_by_its_pid_on_its_own_host():
    assert is_alive(heartbeat())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    beat = heartbeat(ended.pid)
    ended.wait()
    assert not is_alive(beat)


def test_an_old_heartbeat_of_a_living_process_on_this_host_is_no_death():
    beat = json.loads(heartbeat())
    assert is_alive(json.dumps({**beat, "at": 0}))


def test_a_pid_that_came_back_is_another_process():
    beat = json.loads(heartbeat())
    assert not is_alive(json.dumps({**beat, "started": beat["started"] - 100}))


def test_on_another_host_the_lease_decides_and_the_pid_does_not():
    beat = {**json.loads(heartbeat()), "host": "elsewhere", "pid": 1}
    assert is_alive(json.dumps(beat))
    assert not is_alive(json.dumps(beat), now=time.time() + liveness.LEASE_SECONDS + 1)


@pytest.mark.parametrize("tag", [None, "", "nonsense", "{}", "[]", '{"at": 1}'])
def test_no_readable_heartbeat_is_no_life(tag):
    assert not is_alive(tag)


def test_a_run_beats_while_its_process_works(store, monkeypatch):
    monkeypatch.setattr(liveness, "INTERVAL_SECONDS", 0.05)
    run = MlflowClient().create_run("0")
    with beating(run.info.run_id):
        first = MlflowClient().get_run(run.info.run_id).data.tags[HEARTBEAT_TAG]
        for _ in range(100):
            if MlflowClient().get_run(run.info.run_id).data.tags[HEARTBEAT_TAG] != first:
                break
            time.sleep(0.05)
        else:
            pytest.fail("no second beat")


def found(run_id):
    return found_of(MlflowClient().get_run(run_id))


def test_the_dead_are_closed_with_a_reason_and_their_scratch_and_the_living_are_not(store):
    client = MlflowClient()
    dead = client.create_run("0", tags={HEARTBEAT_TAG: json.dumps({**json.loads(heartbeat()), "pid": 2**22})})
    scratch = liveness.scratch_of(dead.info.artifact_uri)
    (scratch / "outputs").mkdir(parents=True)
    assert is_ours_and_dead(found(dead.info.run_id), ("main",), "x")
    close(found(dead.info.run_id), "its process died")
    closed = client.get_run(dead.info.run_id)
    assert (closed.info.status, closed.data.tags[ERROR_TAG]) == ("KILLED", "its process died")
    assert not scratch.exists()
    living = client.create_run("0", tags={HEARTBEAT_TAG: heartbeat()})
    assert not is_ours_and_dead(found(living.info.run_id), ("main",), "x")


def test_a_run_that_nobody_took_up_is_dead_after_a_while_and_a_strangers_never(store):
    client = MlflowClient()
    tags = {"mlflow.project.entryPoint": "main", "mlflow.source.name": "here"}
    old = int((time.time() - liveness.UNCLAIMED_SECONDS - 5) * 1000)
    assert is_ours_and_dead(found(client.create_run("0", old, tags).info.run_id), ("main",), "here")
    assert not is_ours_and_dead(found(client.create_run("0", None, tags).info.run_id), ("main",), "here")
    assert not is_ours_and_dead(found(client.create_run("0", old, tags).info.run_id), ("main",), "elsewhere")
    assert not is_ours_and_dead(found(client.create_run("0", old).info.run_id), ("main",), "here")
    building = {**tags, "mlflow.project.env": "conda"}
    assert not is_ours_and_dead(found(client.create_run("0", old, building).info.run_id), ("main",), "here")


@pytest.fixture
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("SLMFLOW_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv(locks.INHERITED, raising=False)


def measure(began, go, inherited=None):
    """In another process: measure alone, for as long as told."""
    if inherited is not None:
        os.close(inherited)
    with locks.quiet():
        began.set()
        go.wait(20)


def test_while_one_measures_no_step_begins_and_afterwards_it_does(own_locks):
    context = multiprocessing.get_context("fork")
    began, go = context.Event(), context.Event()
    process = context.Process(target=measure, args=(began, go))
    process.start()
    assert began.wait(20)
    assert locks.take_step_lock(wait=False) is None
    go.set()
    process.join(20)
    share = locks.take_step_lock(wait=False)
    assert share is not None
    os.close(share)


def test_one_that_waits_to_measure_lets_no_newcomer_in_and_begins_when_the_others_end(own_locks):
    context = multiprocessing.get_context("fork")
    began, go = context.Event(), context.Event()
    running = locks.take_step_lock(wait=False)
    process = context.Process(target=measure, args=(began, go, running), daemon=True)
    process.start()
    for _ in range(400):
        newcomer = locks.take_step_lock(wait=False)
        if newcomer is None:
            break
        os.close(newcomer)
        time.sleep(0.05)
    else:
        pytest.fail("newcomers starve the one that measures")
    assert not began.is_set()
    os.close(running)
    assert began.wait(20)
    go.set()
    process.join(20)


def test_a_lock_goes_with_the_process_that_held_it(own_locks, tmp_path):
    program = "from slmflow.workflow import locks; import os; locks.take_step_lock(wait=True); "
    program += "c = locks.held('x'); c.__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], check=False)
    with locks.held("x"), locks.quiet():
        pass


def test_two_that_want_to_measure_do_so_one_after_the_other(own_locks):
    context = multiprocessing.get_context("fork")
    inside, most = context.Value("i", 0), context.Value("i", 0)

    def work():
        os.environ.pop(locks.INHERITED, None)
        locks.step_lock()
        with locks.quiet():
            with inside.get_lock():
                inside.value += 1
                most.value = max(most.value, inside.value)
            time.sleep(0.1)
            with inside.get_lock():
                inside.value -= 1

    processes = [context.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert most.value == 1


def elsewhere(at: float) -> str:
    return json.dumps({**json.loads(heartbeat()), "host": "elsewhere", "at": at})


@pytest.fixture
def unheard(store, monkeypatch):
    """A run on another host whose last heartbeat is too old, and one of a dead process on this host."""
    monkeypatch.setattr(liveness, "SECOND_LOOK_SECONDS", 0.3)
    client = MlflowClient()
    tags = {HEARTBEAT_TAG: elsewhere(time.time() - liveness.LEASE_SECONDS - 10)}
    return client.create_run("0", tags=tags), client.create_run("0")


def status_of(run) -> str:
    return MlflowClient().get_run(run.info.run_id).info.status


def test_a_foreign_run_that_stays_unheard_is_closed_at_the_second_look(unheard):
    foreign, driver = unheard
    reap(driver)
    assert status_of(foreign) == "KILLED"


def test_a_foreign_run_that_beats_before_the_second_look_lives(unheard, monkeypatch):
    foreign, driver = unheard

    def beats(seconds):
        MlflowClient().set_tag(foreign.info.run_id, HEARTBEAT_TAG, elsewhere(time.time()))

    monkeypatch.setattr(liveness.time, "sleep", beats)
    reap(driver)
    assert status_of(foreign) == "RUNNING"


def test_the_dead_of_this_host_need_no_second_look(store, monkeypatch):
    monkeypatch.setattr(liveness.time, "sleep", lambda seconds: pytest.fail("waited"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    beat = heartbeat(ended.pid)
    ended.wait()
    dead = MlflowClient().create_run("0", tags={HEARTBEAT_TAG: beat})
    reap(MlflowClient().create_run("0"))
    assert status_of(dead) == "KILLED"


def test_a_heartbeat_that_is_not_answered_is_given_up_at_once(store, monkeypatch):
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as silent:
        monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.2)
        mlflow.set_tracking_uri(f"http://127.0.0.1:{silent.server_address[1]}")  # accepts, never answers
        with pytest.raises(MlflowException, match="Read timed out"):
            liveness.beat_once("0" * 32)
