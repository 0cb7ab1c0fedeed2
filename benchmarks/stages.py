"""Where the time of a run goes: a cold `mlflow run .`, stage by stage.

    python -m benchmarks.stages                       # the default model, some minutes
    python -m benchmarks.stages -P model=tiny_phi3    # tiny, offline

Ours is a stage's wall time as the driver sees it; the peer is the work inside the step (its own
`record.json`). What lies between is the price of a child run: a process, its imports before the work, and
the configuration. The store is a temporary folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient

import slmflow  # noqa: F401  switches telemetry off
from benchmarks import Row, publish, row
from slmflow.workflow import runs
from slmflow.workflow.closure import ROOT

GOAL_TOTAL_SECONDS = 600.0
"""`make run` may take ten minutes on 2 cores, its installation included."""
GOAL_OVERHEAD_SECONDS = 4.0
"""Seconds that a child run may cost beyond its work."""


def measure(arguments: list[str]) -> list[Row]:
    """Run the project once in an empty store and read the stages off its child runs."""
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]
        started = time.time()
        subprocess.run(
            [*command, *arguments],
            cwd=folder,
            env={**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store},
            check=True,
        )
        total = time.time() - started
        mlflow.set_tracking_uri(store)
        (parent,) = MlflowClient().search_runs(["0"], "tags.slmflow.kind = 'driver'")
        rows, in_children = [], 0.0
        for child in runs.children(parent):
            wall = (child.info.end_time - child.info.start_time) / 1000
            work = float(runs.json_artifact(child, "record.json")["seconds"])
            in_children += wall
            rows.append(row(f"{child.info.run_name}: wall, beside its work", wall, "s", peer=work))
            overhead = f"{child.info.run_name}: beyond its work"
            rows.append(row(overhead, wall - work, "s", at_most=GOAL_OVERHEAD_SECONDS))
        rows.append(row("driver: beyond its children", total - in_children, "s"))
        rows.append(row("whole run", total, "s", at_most=GOAL_TOTAL_SECONDS))
        return rows


if __name__ == "__main__":
    publish("stages", measure(sys.argv[1:]))
