"""What the driver costs: time, bytes and lookups, each beside the plain thing, measured in the same run.

    python -m benchmarks.workflow                     # with a random model of 1 B parameters, 40 minutes
    python -m benchmarks.workflow large=no            # without it, a quarter of an hour
    python -m benchmarks.workflow large=no model=tiny_phi3   # tiny, offline, three minutes

First a whole run as `make run` does it, stage by stage: wall time as the driver sees it, beside the work
inside the step (its own `record.json`). Cached and plan are held against `mlflow run` of an empty project;
cold, without task items, against `benchmarks._by_hand`, one Python process that does the same work and the
same proofs; bytes against the distinct content.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import mlflow
from mlflow import MlflowClient

import slmflow  # noqa: F401  switches telemetry off
from benchmarks import Row, row, run
from slmflow.files import files_under
from slmflow.workflow import runs
from slmflow.workflow.closure import ROOT
from slmflow.workflow.lookup import ClientStore, SqliteStore, Store
from slmflow.workflow.tags import KIND_TAG, key_tag, key_tags

WHOLE_RUN_SECONDS = 150.0
"""What `make run` may take beyond its installation, on 2 cores of a quiet machine."""
NO_ITEMS = "evaluate.items=none evaluate.minutes=null"
EMPTY = "name: empty\nentry_points:\n  main:\n    command: 'true'\n"
ONE_BILLION = (
    "model.source.hidden_size=2048 model.source.intermediate_size=8192 model.source.layers=16 "
    "model.source.heads=16 model.source.kv_heads=4 model.source.context=1024 model.source.architecture=llama "
    "model.name=one-billion evaluate=quick gate.mode=off"
)
"""1.0 B parameters: 16 layers of 61 M, and the small vocabulary."""


def mlflow_run(folder: Path, *words: str, root: Path = ROOT) -> float:
    """Seconds of one `mlflow run` on the store in `folder`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    command = [sys.executable, "-m", "mlflow", "run", str(root), "--env-manager", "local", *words]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def written() -> int:
    """Bytes that this process and every child that it has waited for have written."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def parameters(words: dict[str, str]) -> list[str]:
    """The words as `-P key=value`."""
    return [part for key, value in words.items() for part in ("-P", f"{key}={value}")]


def stages(name: str, words: dict[str, str], at_most: float | None) -> list[Row]:
    """A whole run in an empty store, and where its time goes."""
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as scratch:
        seconds = mlflow_run(Path(scratch), *parameters(words))
        parent = driver_in(Path(scratch))
        rows = [row(f"{name}: whole run", seconds, "s", at_most=at_most)]
        for child in runs.children(parent):
            wall = (child.info.end_time - child.info.start_time) / 1000
            work = float(runs.json_artifact(child, "record.json")["seconds"])
            rows.append(row(f"{name}: {child.info.run_name}, beside its work", wall, "s", peer=work))
        mlflow.set_tracking_uri(None)
    return rows


def driver_in(folder: Path) -> mlflow.entities.Run:
    """The driver's run in the store of a folder, which becomes the store of this process."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    (parent,) = MlflowClient().search_runs(["0"], f"tags.{KIND_TAG} = 'driver'")
    return parent


def cold(name: str, words: dict[str, str], at_most: float | None) -> list[Row]:
    """A cold run against the same by hand, its bytes against its content, and the driver's overhead.

    A tiny model, whose weights weigh nothing beside the rest, has no goals: `at_most` is None.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as scratch:
        folder, hand = Path(scratch) / "ours", Path(scratch) / "hand"
        folder.mkdir()
        before = written()
        seconds = mlflow_run(folder, *parameters(words))
        wrote = written() - before
        before = written()
        began = time.perf_counter()
        by_hand = [sys.executable, "-m", "benchmarks._by_hand", str(hand)]
        by_hand += [f"{key}={value}" for key, value in words.items()]
        done = subprocess.run(by_hand, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        hand_seconds = time.perf_counter() - began
        hand_wrote = written() - before
        print(done.stdout)
        rows.append(row(f"{name}: cold, beside by hand", seconds, "s", peer=hand_seconds, at_most=at_most))
        parent = driver_in(folder)
        content, reference = distinct_bytes(parent)
        net = wrote - reference
        most = None if at_most is None else 1.2
        rows.append(row(f"{name}: bytes, beside distinct content", net / 1e6, "MB", content / 1e6, most))
        rows.append(row(f"{name}: bytes by hand", (hand_wrote - reference) / 1e6, "MB", content / 1e6))
        rows.append(row(f"{name}: reference/, apart", reference / 1e6, "MB"))
        overhead, steps = driver_overhead(parent, seconds)
        rows.append(row(f"{name}: driver's own, a step", overhead / steps, "s", at_most=4.0))
        mlflow.set_tracking_uri(None)
    return rows


def distinct_bytes(parent: mlflow.entities.Run) -> tuple[int, int]:
    """Bytes of source, pipeline weights and export, each file once; and of `reference/`."""
    seen: dict[int, int] = {}
    reference = 0
    for child in runs.children(parent):
        folder = Path(child.info.artifact_uri)
        for path in files_under(folder):
            part = path.relative_to(folder).parts[0]
            if part == "reference":
                reference += path.stat().st_size
            elif part in ("source", "huggingface", "onnx"):
                seen[path.stat().st_ino] = path.stat().st_size
    return sum(seen.values()), reference


def driver_overhead(parent: mlflow.entities.Run, seconds: float) -> tuple[float, int]:
    """Seconds of a run in which no step's process was at its work (imports included), and the steps."""
    spans = []
    for child in runs.children(parent):
        record = runs.json_artifact(child, "record.json")
        end = child.info.end_time / 1000
        spans.append((end - record["seconds"] - record["seconds_before_work"], end))
    busy, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return seconds - busy, len(spans)


def warm(words: dict[str, str], repeats: int = 5) -> list[Row]:
    """Everything cached, and the plan, against `mlflow run` of an empty project; medians, interleaved."""
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as scratch:
        folder = Path(scratch)
        (folder / "empty").mkdir()
        (folder / "empty" / "MLproject").write_text(EMPTY)
        mlflow_run(folder, *parameters(words))
        times: dict[str, list[float]] = {"empty": [], "cached": [], "plan": []}
        for _ in range(repeats):
            times["empty"].append(mlflow_run(folder, root=folder / "empty"))
            times["cached"].append(mlflow_run(folder, "-e", "register", *parameters(words)))
            times["plan"].append(mlflow_run(folder, "-e", "plan", *parameters(words)))
        empty, cached, plan = (statistics.median(times[name]) for name in ("empty", "cached", "plan"))
        return [
            row("everything cached, beside an empty project", cached, "s", peer=empty, at_most=2.0),
            row("plan: beyond an empty project", plan - empty, "s", at_most=1.0),
        ]


def lookups() -> list[Row]:
    """One lookup by key among 10,000 runs and among 100; MLflow's client beside the direct reader."""
    medians: dict[tuple[str, int], float] = {}
    for count in (100, 10_000):
        with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as scratch:
            path = Path(scratch) / "mlflow.db"
            fill(path, count)
            stores: dict[str, Store] = {"direct": SqliteStore(path, "0"), "client": ClientStore("0")}
            for name, store in stores.items():
                samples = []
                for number in range(20):
                    key = f"{number * count // 20:x}".zfill(16).ljust(64, "0")
                    began = time.perf_counter()
                    found = store.runs(key_tag(key), key)
                    samples.append((time.perf_counter() - began) * 1000)
                    assert len(found) == 1
                medians[name, count] = statistics.median(samples)
    mlflow.set_tracking_uri(None)
    rows = []
    for name, title in {"direct": "lookup", "client": "lookup by MLflow's client"}.items():
        few, many = medians[name, 100], medians[name, 10_000]
        rows.append(row(f"{title}, 10,000 runs", many, "ms", at_most=100))
        rows.append(row(f"{title}, 10,000 beside 100 runs", many, "ms", peer=few))
    return rows


def fill(path: Path, count: int) -> None:
    """A store with `count` finished step runs of 20 tags each, written behind MLflow's back."""
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    MlflowClient().search_experiments()
    columns = "run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id, "
    columns += "user_id, source_type, source_name, entry_point_name, source_version"
    with sqlite3.connect(path) as database:
        for number in range(count):
            run_id = uuid.UUID(int=number).hex
            values = (run_id, "export_onnx", "FINISHED", number, number, "active", "/nowhere", 0)
            made_by = ("me", "PROJECT", "", "", "")
            marks = ",".join("?" * 13)
            database.execute(f"INSERT INTO runs ({columns}) VALUES ({marks})", values + made_by)  # noqa: S608
            key = f"{number:x}".zfill(16).ljust(64, "0")
            tags = {**key_tags(key), KIND_TAG: "step", **{f"tag{i}": "x" * 40 for i in range(18)}}
            rows = [(key, value, run_id) for key, value in tags.items()]
            database.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?,?,?)", rows)


def measure(words: dict[str, str]) -> list[Row]:
    """All of it; the parts that need the default model take another's name instead, if given."""
    chosen = {"model": words["model"]} if "model" in words else {}
    name = words.get("model", "default model")
    rows = stages(name, chosen, None if chosen else WHOLE_RUN_SECONDS)
    rows += warm({"model": "tiny_phi3", "overrides": "evaluate=quick"})
    rows += lookups()
    rows += cold(name, {**chosen, "overrides": NO_ITEMS}, None if chosen else 1.8)
    if words.get("large") != "no":
        large = {"model": "tiny_phi3", "export": "int8_cpu", "overrides": ONE_BILLION}
        rows += cold("1 B random", large, 1.1)
    return rows


if __name__ == "__main__":
    run("workflow", measure, ["large", "model"])
