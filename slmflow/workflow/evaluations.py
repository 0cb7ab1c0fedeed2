"""Evaluations on their runs, and the comparison of several as artifacts of the active run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.artifacts import stored_json
from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.config import GateConfig

Found = tuple[str, str, dict[str, Any], dict[str, Any] | None]
"""Run, experiment, `evaluation.json`, and `items.json` where tasks were wanted."""


def evaluation_of(run: Run) -> Found:
    """What a run of `evaluate` left. Raises SlmflowError when it left none."""
    uri = run.info.artifact_uri
    evaluation = stored_json(uri, "evaluation.json")
    try:
        items = stored_json(uri, "items.json")
    except SlmflowError:
        items = None
    return run.info.run_id, run.info.experiment_id, evaluation, items


def log_comparison(found: list[Found], gate: GateConfig) -> tuple[str, str]:
    """Log `comparison.*`; returns the table as Markdown and the recommendation."""
    from slmflow.comparison.entry import make_entries
    from slmflow.comparison.files import write_comparison

    entries = make_entries(found)
    name = ", ".join(dict.fromkeys(str(entry.evaluation.get("name") or "model") for entry in entries))
    with tempfile.TemporaryDirectory(prefix="slmflow-") as folder:
        sentence = write_comparison(entries, gate, name, Path(folder))
        mlflow.log_artifacts(folder)
        said = (Path(folder) / "comparison.md").read_text(encoding="utf-8")
    return said.partition("\n\n")[2], sentence
