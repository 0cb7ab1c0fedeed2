"""Ends that a driver brings about: of runs whose process died, and of its own children when it is stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient

from slmflow.tracking import is_absent
from slmflow.workflow import runs
from slmflow.workflow.closure import ROOT
from slmflow.workflow.liveness import close, is_ours_and_dead, still_dead
from slmflow.workflow.lookup import Found, found_of
from slmflow.workflow.steps import STEPS

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.backends import Child

PRIVATE = (".env", ".netrc", ".venv", "mlflow.db", "mlruns")
"""What a folder that MLflow packs whole takes along, and no job needs."""


def reap(parent: Run) -> None:
    """Close the runs of this project that the store calls RUNNING and whose process is dead."""
    running = MlflowClient().search_runs([parent.info.experiment_id], "attributes.status = 'RUNNING'")
    source = parent.data.tags.get("mlflow.source.name", "")
    found = [found_of(run) for run in running if run.info.run_id != parent.info.run_id]
    dead = [run for run in found if is_ours_and_dead(run, ("main", *STEPS), source)]
    for run in still_dead(dead, _look):
        close(run, "its process died")
        print(f"  closed run {run.run_id} ({run.name}), whose process died", flush=True)


def _look(run_id: str) -> Found | None:
    try:
        return found_of(MlflowClient().get_run(run_id))
    except Exception as error:
        if is_absent(error):
            return None
        raise


@contextlib.contextmanager
def interruptions_held_back() -> Iterator[None]:
    """An interruption that comes within is raised at the end, a second one at once.

    So that a child that has been started is known to whoever stops the children.
    """
    if threading.current_thread() is not threading.main_thread():  # no signal is handled there
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    arrived: list[int] = []

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hold_back(number: int, _: object) -> None:
        arrived.append(number)
        restore()

    for number in handlers:
        signal.signal(number, hold_back)
    try:
        yield
    finally:
        restore()
        if arrived:
            signal.raise_signal(arrived[0])


def stop(children: Iterable[tuple[str, Run, Child]], say: Callable[[str], None]) -> None:
    """Stop children, all of them asked before the first is waited for, and close their runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    stopped = list(children)
    for name, run, child in stopped:
        say(f"✗ {name}  stopped, run {run.info.run_id}")
        child.interrupt()
    for _, run, child in stopped:
        child.stop()
        found = _look(run.info.run_id)
        if found is not None and found.status != "FINISHED":
            close(found, "stopped with its driver")


def close_children(parent: Run) -> None:
    """Close what a driver's runs are still RUNNING."""
    for left in runs.children(parent):
        if left.info.status == "RUNNING":
            close(found_of(left), "stopped with its driver")


def last_line(log: Path) -> str:
    """The last line of a child's output that says something: why it ended, where its run does not say."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def warn_of_private_files(folder: Path = ROOT) -> None:
    """Say in one line what was packed with the project that should have stayed where it was."""
    if there := [name for name in PRIVATE if (folder / name).exists()]:
        print(
            f"  warning: MLflow packed {', '.join(there)} with the project, and this cluster has a copy: "
            "use `make databricks` or a git address (docs/databricks.md)",
            file=sys.stderr,
            flush=True,
        )
