"""Whether the process behind a running run still lives, and what becomes of a run whose process does not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.artifacts import folder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slmflow.workflow.lookup import Found

HEARTBEAT_TAG = "slmflow.heartbeat"
"""Who carries the run out and when it last said so: {"at", "host", "pid", "started"}."""
INTERVAL_SECONDS = 20.0
LEASE_SECONDS = 120.0
"""A run on another host whose heartbeat is older is taken for dead. Clocks must agree to within it."""
SECOND_LOOK_SECONDS = 45.0
"""Between two looks at such a run before it is closed: after an outage a living process beats again."""
BEAT_SECONDS = 10
"""For the answer to one heartbeat, which is not asked twice: the next one comes soon."""
UNCLAIMED_SECONDS = 60.0
"""A run of ours that `mlflow run` made, but that no process of ours took up, is dead after that."""
BUILDING_SECONDS = 3600.0
"""The same where `mlflow run` builds an environment first."""


@cache
def host() -> str:
    """The host, as far as process ids mean something on it: name, boot, and pid namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def heartbeat(pid: int | None = None) -> str:
    """A heartbeat of a process on this host, of this process by default, as the tag's value."""
    pid = pid or os.getpid()
    return json.dumps({"at": round(time.time(), 1), "host": host(), "pid": pid, "started": _started(pid)})


def _started(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time(), 2)
    except psutil.NoSuchProcess:
        return None


def _read(tag: str | None) -> dict[str, Any] | None:
    """A heartbeat; None where the tag holds none."""
    try:
        beat: dict[str, Any] = json.loads(tag or "")
        return {name: beat[name] for name in ("at", "host", "pid", "started")}
    except (ValueError, KeyError, TypeError):
        return None


def is_alive(tag: str | None, *, now: float | None = None) -> bool:
    """Whether a heartbeat is of a living process: by its pid on its own host, else by its age."""
    beat = _read(tag)
    if beat is None:
        return False
    started = beat["started"]
    if beat["host"] == host():
        begun = _started(beat["pid"])
        # A pid comes back: it is the same process only if it began at the same time.
        return begun is not None and started is not None and abs(begun - started) < 1
    return bool((time.time() if now is None else now) - beat["at"] < LEASE_SECONDS)


@contextlib.contextmanager
def beating(run_id: str) -> Iterator[None]:
    """Say every INTERVAL_SECONDS, from a thread, that this process carries the run out."""
    from mlflow import MlflowClient

    client = MlflowClient()
    client.set_tag(run_id, HEARTBEAT_TAG, heartbeat())
    over = threading.Event()

    def beat() -> None:
        while not over.wait(INTERVAL_SECONDS):
            # A store that is away for a while costs a beat, not the step.
            with contextlib.suppress(Exception):
                beat_once(run_id)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def beat_once(run_id: str) -> None:
    """Put this process's heartbeat on a run: one request, given up soon.

    MLflow repeats a request for minutes, in which a server that came back would hear nothing.
    """
    from mlflow import MlflowClient
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.tracking._tracking_service.utils import _get_store
    from mlflow.utils.rest_utils import http_request_safe

    store = _get_store()
    if not isinstance(store, RestStore):
        MlflowClient().set_tag(run_id, HEARTBEAT_TAG, heartbeat())
        return
    http_request_safe(
        store.get_host_creds(),
        "/api/2.0/mlflow/runs/set-tag",
        "POST",
        max_retries=0,
        retry_timeout_seconds=BEAT_SECONDS,
        timeout=BEAT_SECONDS,
        json={"run_id": run_id, "run_uuid": run_id, "key": HEARTBEAT_TAG, "value": heartbeat()},
    )


def beat_where_silent(run_id: str) -> None:
    """Beat for a run that is carried out elsewhere, unless the process that does so has beaten lately."""
    from mlflow import MlflowClient

    with contextlib.suppress(Exception):  # a store that is away costs a beat
        tag = MlflowClient().get_run(run_id).data.tags.get(HEARTBEAT_TAG)
        beat = _read(tag)
        own = beat is not None and (beat["host"], beat["pid"]) == (host(), os.getpid())
        if beat is None or own or time.time() - beat["at"] > 3 * INTERVAL_SECONDS:
            beat_once(run_id)


def still_dead(runs: list[Found], look: Callable[[str], Found | None]) -> list[Found]:
    """Those of some dead runs that are dead at a second look, where the first one cannot tell for certain.

    On this host a process is there or is not. On another it may live and have been unheard for a while.
    """
    beats = {run.run_id: _read(run.tags.get(HEARTBEAT_TAG)) for run in runs}
    unsure = [run for run in runs if (beat := beats[run.run_id]) is not None and beat["host"] != host()]
    if not unsure:
        return runs
    time.sleep(SECOND_LOOK_SECONDS)
    found = {run.run_id: look(run.run_id) for run in unsure}
    beaten = {
        run.run_id
        for run in unsure
        if (now := found[run.run_id]) is None
        or now.status != "RUNNING"
        or now.tags.get(HEARTBEAT_TAG) != run.tags[HEARTBEAT_TAG]
    }
    return [run for run in runs if run.run_id not in beaten]


def is_ours_and_dead(run: Found, entry_points: tuple[str, ...], source: str) -> bool:
    """Whether a run that the store calls RUNNING belongs to this project and has no process any more."""
    if HEARTBEAT_TAG in run.tags:
        return not is_alive(run.tags[HEARTBEAT_TAG])
    patience = BUILDING_SECONDS if "mlflow.project.env" in run.tags else UNCLAIMED_SECONDS
    return (
        run.tags.get("mlflow.project.entryPoint") in entry_points
        and run.tags.get("mlflow.source.name") == source
        and time.time() - run.start_time / 1000 > patience
    )


def close(run: Found, why: str) -> None:
    """Mark a dead run KILLED, say why, and remove what it had half made."""
    from mlflow import MlflowClient

    from slmflow.workflow.runs import ERROR_TAG

    client = MlflowClient()
    if ERROR_TAG not in run.tags:
        client.set_tag(run.run_id, ERROR_TAG, why)
    client.set_terminated(run.run_id, status="KILLED")
    remove_scratch(run.artifact_uri)


def remove_scratch(artifact_uri: str) -> None:
    """Remove what a dead step had half made."""
    if scratch := scratch_of(artifact_uri):
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_of(artifact_uri: str) -> Path | None:
    """A local run's scratch folder: beside its artifacts, so that what is made there is only renamed."""
    folder = folder_of(artifact_uri)
    return None if folder is None else folder.parent / "scratch"
