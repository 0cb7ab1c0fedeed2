"""The pins of now beside those of an earlier commit, each in its own environment with its own code.

    python -m benchmarks.upgrade                            # the default model, half an hour, quiet machine
    python -m benchmarks.upgrade before=52a3412 pairs=3     # another commit, fewer pairs
    python -m benchmarks.upgrade model=tiny_phi3 pairs=2    # tiny, offline, five minutes

Both run the whole workflow once, then in turn: their packaged models in a process each (prompt of 256
tokens, 64 tokens decoded, memory), and the run again when everything is there. Ratios are of pairs, with a
95 % interval of their mean by Student's t; nothing may be more than 5 % worse.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.stats
from mlflow import MlflowClient

from benchmarks import Row, run
from slmflow.environments.maker import Purpose, environment
from slmflow.workflow.closure import ROOT

BEFORE = "52a3412"
"""The last commit with transformers 4."""
PAIRS = 12
SIDE = ROOT / "benchmarks" / "_one_side.py"
HIGHER_IS_BETTER = ("prompt", "decode")
UNITS = {"prompt": "tokens/s", "decode": "tokens/s", "load": "s", "resident": "bytes", "warm run": "s"}


@dataclass(frozen=True)
class Side:
    """A checkout, the environment of its pins, and a store."""

    root: Path
    python: Path
    store: Path

    def run(self, *words: str) -> float:
        """Seconds of one `mlflow run`."""
        self.store.mkdir(exist_ok=True)
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": self.uri}
        command = [str(self.python), "-m", "mlflow", "run", str(self.root), "--env-manager", "local", *words]
        began = time.perf_counter()
        subprocess.run(command, cwd=self.store, env=environment, check=True, capture_output=True)
        return time.perf_counter() - began

    @property
    def uri(self) -> str:
        """Its tracking store."""
        return f"sqlite:///{self.store}/mlflow.db"

    def models(self) -> dict[str, str]:
        """Folder of each champion, by its flavour."""
        client = MlflowClient(self.uri, self.uri)
        found = {}
        for model in client.search_registered_models():
            version = client.get_model_version_by_alias(model.name, "champion")
            logged = client.get_logged_model(str(version.source).removeprefix("models:/"))
            found[model.name.rpartition("-")[2]] = logged.artifact_location.removeprefix("file://")
        return found

    def figures(self, flavour: str, folder: str) -> dict[str, float]:
        """Of one process."""
        command = [str(self.python), "-I", str(SIDE), flavour, folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def installed_bytes(python: Path) -> int:
    """Bytes on disk of all that is installed for an interpreter."""
    program = (
        "from importlib.metadata import distributions as d;"
        "print(sum(f.size or 0 for i in d() for f in i.files or []))"
    )
    return int(subprocess.run([python, "-I", "-c", program], check=True, capture_output=True).stdout)


def compared(name: str, ours: list[float], theirs: list[float]) -> Row:
    """The mean of each side, and the ratio of the pairs with its interval in the name."""
    figure = name.rpartition(", ")[2]
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    ratio, spread = math.exp(statistics.fmean(logs)), 0.0
    if len(logs) > 1:
        error = statistics.stdev(logs) / math.sqrt(len(logs))
        spread = float(scipy.stats.t.ppf(0.975, len(logs) - 1)) * error
    low, high = ratio * math.exp(-spread), ratio * math.exp(spread)
    print(f"{name}: {ratio:.3f}, 95 % of {low:.3f} to {high:.3f}", flush=True)
    better = figure in HIGHER_IS_BETTER
    goal, holds = (">= 0.95", ratio >= 0.95) if better else ("<= 1.05", ratio <= 1.05)
    values = (statistics.fmean(ours), UNITS[figure], statistics.fmean(theirs))
    return Row(name, *values, ratio, goal, holds)


def measure(words: dict[str, str]) -> list[Row]:
    """All figures, the sides in turn."""
    commit, pairs = words.get("before", BEFORE), int(words.get("pairs", PAIRS))
    choice = ["-P", f"model={words.get('model', 'smollm2_135m')}"]
    with tempfile.TemporaryDirectory(prefix="slmflow-upgrade-") as scratch:
        clone = Path(scratch) / "before"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "checkout", "-q", commit], cwd=clone, check=True)
        roots = {"now": ROOT, "before": clone}
        sides = {}
        for name, root in roots.items():
            pins = (root / "requirements.txt").read_text()
            made = environment(pins, Purpose(f"the pins of {name}", ""), is_locked=True)
            sides[name] = Side(root, made.python, Path(scratch) / f"store-{name}")
        for name, side in sides.items():
            print(f"{name}: the whole run took {side.run(*choice):.0f} s", flush=True)
        found: dict[str, dict[str, list[float]]] = {}

        def note(figure: str, name: str, value: float) -> None:
            found.setdefault(figure, {"now": [], "before": []})[name].append(value)

        models = {name: side.models() for name, side in sides.items()}
        for pair in range(pairs):
            order: list[Any] = list(sides.items())
            for name, side in order[:: 1 if pair % 2 else -1]:
                for flavour, folder in models[name].items():
                    for figure, value in side.figures(flavour, folder).items():
                        note(f"{flavour}, {figure}", name, value)
                note("all cached, warm run", name, side.run(*choice))
        sizes = {name: installed_bytes(side.python) for name, side in sides.items()}
    rows = [compared(figure, of["now"], of["before"]) for figure, of in sorted(found.items())]
    ratio = sizes["now"] / sizes["before"]
    rows.append(Row("installed", sizes["now"], "bytes", sizes["before"], ratio, "<= 1.05", ratio <= 1.05))
    return rows


if __name__ == "__main__":
    run("upgrade", measure, known=("before", "pairs", "model"))
