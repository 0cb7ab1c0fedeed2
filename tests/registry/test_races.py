"""Real processes that promote at once, on the embedded store and through a server."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from slmflow.registry.aliases import repair, standing
from tests import warm
from tests.conftest import ROOT, store_uri
from tests.registry.conftest import NAME, whole


def mover(uri, locks, rounds, *numbers):
    environment = {"MLFLOW_TRACKING_URI": uri, "SLMFLOW_LOCKS": str(locks), "PYTHONPATH": str(ROOT)}
    environment["MLFLOW_REGISTRY_URI"] = uri
    command = [warm.python(), "-m", "tests.registry.mover", NAME, str(rounds), *numbers]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, **environment}, text=True, **pipes)


def watch(movers, client):
    """Every champion seen until the processes have ended; their outputs."""
    seen = set()
    while any(process.poll() is None for process in movers):
        seen.add(standing(client, NAME).champion)
    told = [process.communicate() for process in movers]
    for process, (_, errors) in zip(movers, told, strict=True):
        assert process.returncode == 0, errors
    return seen, [int(out) for out, _ in told]


def settled(client):
    """The standing after one repair, which must be in order."""
    repair(client, NAME, whole)
    now = standing(client, NAME)
    assert now.champion is not None
    assert now.intent is None
    assert now.champion not in (now.previous, now.challenger)
    return now


def test_two_processes_of_one_host_promote_one_after_the_other(make_versions, store):
    client = make_versions(3)
    client.set_registered_model_alias(NAME, "champion", "1")
    locks = store / "locks"
    movers = [mover(store_uri(store), locks, 6, "1", "2"), mover(store_uri(store), locks, 6, "3", "1")]
    seen, moved = watch(movers, client)
    assert moved == [0, 0]
    assert None not in seen
    assert settled(client).intent is None


@pytest.mark.slow
def test_two_hosts_on_one_store_leave_one_champion_at_every_moment(make_versions, store):
    """Locks of their own, as on two hosts: they see each other by reading back only."""
    client = make_versions(3)
    client.set_registered_model_alias(NAME, "champion", "1")
    movers = [mover(store_uri(store), store / which, 8, "1", which) for which in ("2", "3")]
    seen, _ = watch(movers, client)
    assert None not in seen
    settled(client)


@pytest.mark.slow
def test_a_process_that_is_killed_while_another_promotes_is_repaired(make_versions, store):
    client = make_versions(3)
    client.set_registered_model_alias(NAME, "champion", "1")
    locks = store / "locks"
    doomed = mover(store_uri(store), locks, 10_000, "1", "2")
    while standing(client, NAME).intent is None:
        assert doomed.poll() is None
    doomed.kill()
    doomed.communicate()
    assert standing(client, NAME).champion is not None
    seen, moved = watch([mover(store_uri(store), locks, 2, "3", "1")], client)
    assert moved == [0]
    assert None not in seen
    settled(client)


@pytest.fixture
def server(store):
    """A real `mlflow server` on loopback, on the test's own store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store_uri(store)]
    process = subprocess.Popen(command, cwd=store, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"{uri}/health").close()
                break
            except OSError:
                time.sleep(0.1)
        yield uri
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_through_a_server_two_hosts_leave_one_champion_and_a_crash_is_repaired(make_versions, server, store):
    client = MlflowClient(server, server)
    make_versions(3, client=client)
    client.set_registered_model_alias(NAME, "champion", "1")
    movers = [mover(server, store / which, 8, "1", which) for which in ("2", "3")]
    seen, _ = watch(movers, client)
    assert None not in seen
    settled(client)
    doomed = mover(server, store / "locks", 10_000, "1", "2")
    while standing(client, NAME).intent is None:
        assert doomed.poll() is None
    doomed.kill()
    doomed.communicate()
    settled(client)
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias(NAME, "nobody")
