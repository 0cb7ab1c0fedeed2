"""Locks between the processes of one host, released by the system when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

INHERITED = "SLMFLOW_STEP_LOCK"
"""Environment variable with the file descriptor of the step lock that the driver took for its child."""


def folder() -> Path:
    """Where the lock files are: one folder for every user of this host's temporary folder."""
    path = Path(os.environ.get("SLMFLOW_LOCKS") or Path(tempfile.gettempdir()) / "slmflow-locks")
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user made it
        path.chmod(0o1777)
    return path


def _open(name: str) -> int:
    path = folder() / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(PermissionError):
        path.chmod(0o666)
    return descriptor


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Hold the named lock alone; waits for whoever has it."""
    descriptor = _open(f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take_step_lock(*, wait: bool) -> int | None:
    """Share the host's step lock; returns its descriptor, which a child can inherit.

    Every step holds a share of it while it runs. One that measures holds it alone (`quiet`). While
    somebody measures, or waits to measure (the turnstile keeps newcomers from starving them), this waits,
    or returns None if it shall not.
    """
    flags = fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB)
    turnstile, descriptor = _open("turnstile.lock"), _open("steps.lock")
    try:
        fcntl.flock(turnstile, flags)
        fcntl.flock(descriptor, flags)
    except BlockingIOError:
        os.close(descriptor)
        return None
    finally:
        os.close(turnstile)
    return descriptor


def step_lock() -> int:
    """The share of the step lock of this process: inherited from the driver, or taken now."""
    inherited = os.environ.get(INHERITED, "")
    if inherited.isdigit():
        with contextlib.suppress(OSError):
            os.fstat(int(inherited))
            return int(inherited)
    os.environ[INHERITED] = str(take_step_lock(wait=True))
    return int(os.environ[INHERITED])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold the step lock alone: no other step of any driver runs on this host meanwhile.

    The own share is given up first, so two that want to measure do not wait for each other.
    """
    descriptor = step_lock()
    turnstile = _open("turnstile.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        try:
            fcntl.flock(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  speed is measured alone: waiting for the other steps on this host to end", flush=True)
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.close(turnstile)
