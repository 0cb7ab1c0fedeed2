"""Carry a step out where this file was uploaded to; only the standard library is there at its beginning.

    python run_step.py <archive> [--set=NAME=value …] [--secret=NAME=scope/key …] -- fetch model=tiny_phi3

Unpacks the project's archive into a fresh folder (where it is a folder, stays in it), sets the variables,
and runs `python -m steps.<step>`. An empty `--secret=` is none: a bundle's variable cannot take a word away.
A job that is cancelled gets SIGTERM, which the step takes as an interruption.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile


def secret(place: str) -> str:
    """The value of a Databricks secret, given as scope/key."""
    from databricks.sdk import WorkspaceClient

    return str(WorkspaceClient().dbutils.secrets.get(*place.split("/", 1)))


def run(words: list[str]) -> int:
    """Returns the step's exit status."""
    end = words.index("--")
    (project, *options), (step, *arguments) = words[:end], words[end + 1 :]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for option in options:
        if option == "--secret=":
            continue
        kind, name, value = option.split("=", 2)
        environment[name] = secret(value) if kind == "--secret" else value
    with tempfile.TemporaryDirectory(prefix="slmflow-job-") as folder:
        environment["TMPDIR"] = tempfile.mkdtemp(dir=folder)
        if not os.path.isdir(project):
            with tarfile.open(project) as packed:
                packed.extractall(folder, filter="data")
            project = folder
        command = [sys.executable, "-m", f"steps.{step}", *arguments]
        process = subprocess.Popen(command, cwd=project, env=environment)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        return process.wait()


if __name__ == "__main__":
    status = run(sys.argv[1:])
    if status:  # a job takes any SystemExit for a failure in some runtimes
        sys.exit(status if status > 0 else 128 - status)
