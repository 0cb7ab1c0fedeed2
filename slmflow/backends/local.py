"""A child run as a process on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.workflow.closure import ROOT
from slmflow.workflow.locks import INHERITED

if TYPE_CHECKING:
    from mlflow.entities import Run

GRACE_SECONDS = 15.0
"""Between asking a child to stop and making it."""


class Child:
    """One step's process, with its output in a file, so that it outlives a driver that is killed."""

    def __init__(self, run: Run, step: str, parameters: dict[str, str], log: Path, step_lock: int) -> None:
        """Start it. The share of the host's step lock passes to it and is closed here."""
        self.log = log
        self._read = 0
        environment = {
            **os.environ,
            "MLFLOW_RUN_ID": run.info.run_id,
            "MLFLOW_EXPERIMENT_ID": run.info.experiment_id,
            "PYTHONUNBUFFERED": "1",
            INHERITED: str(step_lock),
        }
        environment.pop("MLFLOW_EXPERIMENT_NAME", None)
        command = [sys.executable, "-m", f"steps.{step}", *(f"{k}={v}" for k, v in parameters.items() if v)]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C at the terminal reaches the driver, which stops its children.
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(step_lock,),
            )
        os.close(step_lock)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status once it has ended; negative for a signal."""
        return self._process.poll()

    def new_output(self) -> bytes:
        """What it has written since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        return text

    def stop(self) -> None:
        """Interrupt it and its own children, and kill what does not end within GRACE_SECONDS."""
        self._signal(signal.SIGINT)
        until = time.monotonic() + GRACE_SECONDS
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
