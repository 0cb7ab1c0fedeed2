"""Measure one packaged model: fidelity to the fp32 reference, speed, size, memory.

    mlflow run . -e evaluate --env-manager local -P logged_run=<log_pipeline's id>
    mlflow run . -e evaluate --env-manager local -P logged_run=<log_onnx's id> -P reference_run=<its id>

Tiny, offline (without ids it makes both candidates first):

    mlflow run . -e evaluate --env-manager local -P model=tiny_phi3

Leaves `evaluation.json`, `windows.json` (a row a window), metrics on the run and on the LoggedModel, and for
the pipeline `reference/`: the log-probabilities that every other candidate is compared with.
"""

from __future__ import annotations

import itertools
import resource
import sys
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from tqdm import tqdm

from slmflow.errors import SlmflowError
from slmflow.files import size_under, write_json
from slmflow.packaging.weights import weights_of
from slmflow.quality import reference
from slmflow.quality.candidates import load
from slmflow.quality.cost import measure_speed
from slmflow.quality.fidelity import Window, compare, windows_of
from slmflow.sources.huggingface import huggingface_folder
from slmflow.text import text_of
from slmflow.workflow import runs
from slmflow.workflow.shell import Context, main

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.quality.candidates import Candidate


def work(context: Context) -> None:
    """Measure, and leave the figures where people and the gate look for them."""
    config = context.config.evaluate
    logged = runs.json_artifact(context.upstream["logged_run"], "logged.json")
    text = text_of(config.text)
    candidate = load(logged["candidate"], f"models:/{logged['model_id']}")
    longest = max(config.window, config.prompt_tokens + config.new_tokens)
    if longest > candidate.context_length:
        raise SlmflowError(
            f"evaluate.window={config.window} and prompt_tokens + new_tokens="
            f"{config.prompt_tokens + config.new_tokens} must fit into the model's context of "
            f"{candidate.context_length}: choose evaluate=quick, or set them"
        )
    ids = candidate.encode(text)
    windows = windows_of(ids, config.window, config.windows)
    if not windows:
        raise SlmflowError(f"evaluate.window={config.window}: the text has only {len(ids)} tokens")
    cost = measure_speed(candidate, ids[: config.prompt_tokens], config.new_tokens, config.repeats)
    # Taken before the reference is loaded into this process: the figure is the candidate's own.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    folder = weights_of(logged["model_id"])
    cost |= {"size_bytes": float(size_under(folder)), "peak_resident_bytes": float(peak)}
    expected = _reference(context, logged, windows)
    faithful = None if expected is None else _fidelity(candidate, windows, expected)
    names = ("candidate", "model_id", "precision", "parameters", "source_digest", "fingerprint")
    evaluation = {**{name: logged[name] for name in names}, "fidelity": faithful, "cost": cost}
    mlflow.log_artifact(str(write_json(context.scratch / "evaluation.json", evaluation)))
    metrics = {**(faithful or {}), **cost}
    # Logged once for the run and the model: MLflow files a metric under both when the model is named.
    mlflow.log_metrics(metrics, model_id=logged["model_id"])
    shown = "fidelity not measured"
    if faithful:
        shown = f"KL {faithful['kl_mean']:.3g}, top-1 {faithful['top1_agreement']:.3f}"
    speed = cost["decode_tokens_per_second"]
    print(f"  {logged['candidate']} {logged['precision']}: {shown}, {speed:.1f} tokens/s")


def _reference(context: Context, logged: dict[str, Any], windows: list[Window]) -> NDArray[np.float32] | None:
    """The reference's log-probabilities at the scored positions: made, read, or not to be had."""
    if logged["candidate"] == "pipeline":
        fetch = runs.upstream_of(context.upstream["logged_run"], "fetch_run")
        source = runs.artifact(fetch, "base" if context.composition.base else "source")
        huggingface = huggingface_folder(source, context.scratch)
        logs = reference.scored_logprobs(huggingface, windows)
        folder = reference.save(context.scratch / "reference", logs, windows, logged["reference_digest"])
        mlflow.log_artifacts(str(folder), "reference")
        return logs
    if "reference_run" not in context.upstream:
        if context.config.export.exporter == "prebuilt" and context.composition.base is None:
            return None
        raise SlmflowError("reference_run is missing: give the id of the run that evaluated the pipeline")
    folder = runs.artifact(context.upstream["reference_run"], "reference")
    return reference.read(folder, windows, logged["reference_digest"])


def _fidelity(candidate: Candidate, windows: list[Window], expected: NDArray[np.float32]) -> dict[str, float]:
    """Compare at every scored position; leave a row a window and return the figures over all."""
    scored = [candidate.logprobs(window.ids)[window.scored] for window in tqdm(windows, "  windows")]
    targets = np.concatenate([window.targets for window in windows])
    positions = compare(expected, np.concatenate(scored), targets)
    borders = np.cumsum([0, *map(len, scored)])
    rows = [positions[start:end].figures() for start, end in itertools.pairwise(borders)]
    table = {"window": list(range(len(rows))), **{name: [row[name] for row in rows] for name in rows[0]}}
    mlflow.log_table(table, "windows.json")
    return positions.figures()


if __name__ == "__main__":
    sys.exit(main("evaluate", work))
