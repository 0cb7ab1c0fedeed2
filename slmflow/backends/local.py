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

from slmflow.backends import new_text
from slmflow.backends.run_step import QUIET
from slmflow.workflow.closure import ROOT
from slmflow.workflow.liveness import heartbeat
from slmflow.workflow.locks import INHERITED, take_step_lock

if TYPE_CHECKING:
    from mlflow.entities import Run

GRACE_SECONDS = 15.0
"""Between asking a child to stop and making it."""
SIDE_BY_SIDE = {"GOMP_SPINCOUNT": "1000"}
"""Waiting threads of torch turn 300,000 times by libgomp's default, on cores that the steps beside need."""


class LocalBackend:
    """Processes on this machine."""

    def slot(self) -> LocalSlot | None:
        """A share of the host's step lock; None while somebody measures."""
        lock = take_step_lock(wait=False)
        return None if lock is None else LocalSlot(lock)


class LocalSlot:
    """A share of the host's step lock."""

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def start(self, run: Run, step: str, parameters: dict[str, str], log: Path) -> Process:
        """The share passes to the process."""
        return Process(run, step, parameters, log, self._lock)

    def release(self) -> None:
        """Close the share."""
        os.close(self._lock)


class Process:
    """One step's process, with its output in a file, so that it outlives a driver that is killed."""

    def __init__(self, run: Run, step: str, parameters: dict[str, str], log: Path, step_lock: int) -> None:
        """Start it. The share of the host's step lock passes to it and is closed here."""
        self.log = log
        self._read = 0
        self._asked: float | None = None
        environment = {
            **({} if sys.stdout.isatty() else QUIET),
            **SIDE_BY_SIDE,
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

    def heartbeat(self) -> str:
        """Of the process itself."""
        return heartbeat(self._process.pid)

    def poll(self) -> int | None:
        """The exit status once it has ended; negative for a signal."""
        return self._process.poll()

    def new_output(self) -> bytes:
        """What it has written since the last call."""
        text = new_text(self.log, self._read)
        self._read += len(text)
        return text

    def ending(self, status: int) -> str:
        """The signal's name, or the status."""
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def interrupt(self) -> None:
        """Interrupt it and its own children."""
        if self._asked is None:
            self._asked = time.monotonic()
            self._signal(signal.SIGINT)

    def stop(self) -> None:
        """Interrupt it and its own children, and kill what does not end within GRACE_SECONDS."""
        self.interrupt()
        until = (self._asked or 0.0) + GRACE_SECONDS
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
