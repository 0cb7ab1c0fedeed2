"""Carry a step out where this file was uploaded to; only the standard library is there at its beginning.

    python run_step.py <archive> [--set=NAME=value …] [--secret=NAME=scope/key …] -- fetch model=tiny_phi3

Unpacks the project's archive into a fresh folder (where it is a folder, stays in it), sets the variables,
and runs `python -m steps.<step>`. An empty `--secret=` is none: a bundle's variable cannot take a word away.
A job that is cancelled gets SIGTERM, which the step takes as an interruption; one whose runner is killed
gets it too.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from typing import IO, Any

QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "TQDM_MININTERVAL": "30"}
"""For a log that no terminal shows: few or no states of progress bars."""
SILENT_SECONDS = 0.5
"""What an ended step's own children may still write in, who hold its output open."""
PR_SET_PDEATHSIG = 1
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 has filters of archives from 3.11.4 on; Debian 12's own is 3.11.2."""


def secret(place: str) -> str:
    """The value of a Databricks secret, given as scope/key."""
    from databricks.sdk import WorkspaceClient

    return str(WorkspaceClient().dbutils.secrets.get(*place.split("/", 1)))


def credentials(environment: dict[str, str]) -> dict[str, str]:
    """How a child process reaches the workspace: the runtime gives that to its own process alone.

    Nothing where no store is the workspace's. A token is as it is now; a service principal's own secret
    (DATABRICKS_CLIENT_ID, DATABRICKS_CLIENT_SECRET) is renewed by the child itself, so it goes first.
    """
    stores = [environment.get(name, "") for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")]
    if not any(store.startswith("databricks") for store in stores):
        return {}
    own = environment.get("DATABRICKS_TOKEN") or environment.get("DATABRICKS_CLIENT_SECRET")
    if own and environment.get("DATABRICKS_HOST"):
        return {}
    from databricks.sdk import WorkspaceClient

    config = WorkspaceClient().config
    found = {"DATABRICKS_HOST": str(config.host)}
    if not own:
        found["DATABRICKS_TOKEN"] = config.authenticate()["Authorization"].removeprefix("Bearer ")
    return found


def dies_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it becomes the step, so that it is stopped when its runner is killed."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)

    def ask() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before it could be asked
            os._exit(1)

    return ask


def repeat(output: IO[bytes], ended: Callable[[], bool]) -> None:
    """Print what comes line by line, of a progress bar its last state, until it is closed.

    A runtime may keep only what Python itself prints, and not what a child process writes.
    """
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while True:
        if select.select([output], [], [], SILENT_SECONDS)[0]:
            data = os.read(output.fileno(), 1 << 16)
            *lines, rest = (rest + decoder.decode(data, not data)).split("\n")
            for line in lines:
                print(line.rstrip("\r").rpartition("\r")[2], flush=True)
            if not data:
                break
            if len(rest) > 10_000:
                rest = rest.rpartition("\r")[2]
        elif ended():
            break
    if rest.strip():
        print(rest.rstrip("\r").rpartition("\r")[2], flush=True)


def run(words: list[str]) -> int:
    """Returns the step's exit status."""
    end = words.index("--")
    (project, *options), (step, *arguments) = words[:end], words[end + 1 :]
    environment = {**QUIET, **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for option in options:
        if option == "--secret=":
            continue
        kind, name, value = option.split("=", 2)
        environment[name] = secret(value) if kind == "--secret" else value
    environment |= credentials(environment)
    with tempfile.TemporaryDirectory(prefix="slmflow-job-") as folder:
        environment["TMPDIR"] = tempfile.mkdtemp(dir=folder)
        if not os.path.isdir(project):
            with tarfile.open(project) as packed:
                packed.extractall(folder, **SAFELY)  # noqa: S202  what is in it is ours
            project = folder
        process = subprocess.Popen(
            [sys.executable, "-m", f"steps.{step}", *arguments],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=dies_with(os.getpid()),
        )
        with contextlib.suppress(ValueError):  # only a main thread has signals
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        assert process.stdout is not None
        repeat(process.stdout, lambda: process.poll() is not None)
        return process.wait()


if __name__ == "__main__":
    status = run(sys.argv[1:])
    if status:  # a job takes any SystemExit for a failure in some runtimes
        sys.exit(status if status > 0 else 128 - status)
