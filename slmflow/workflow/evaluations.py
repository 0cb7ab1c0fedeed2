"""Evaluations on their runs, and the comparison of several as artifacts of the active run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.comparison.entry import Entry, make_entries
from slmflow.comparison.files import write_comparison
from slmflow.comparison.shape import problem_of_shape
from slmflow.errors import SlmflowError, first_line
from slmflow.workflow import runs
from slmflow.workflow.evidence import table_of

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.config import GateConfig

Found = tuple[str, str, dict[str, Any], dict[str, Any] | None]
"""Run, experiment, `evaluation.json`, and `items.json` where tasks were wanted."""


def evaluation_of(run: Run) -> Found:
    """What a run of `evaluate` left, checked against its index.

    Raises SlmflowError, naming the run, when it left none, or what it left is damaged or malformed.
    """
    try:
        evaluation, items = runs.json_artifact(run, "evaluation.json"), table_of(run, "items.json")
        problem = problem_of_shape(evaluation, items)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"its index or its evaluation cannot be read: {first_line(error)}"
    if problem:
        raise SlmflowError(f"evaluate run {run.info.run_id}: {problem}; evaluate it again")
    return run.info.run_id, run.info.experiment_id, evaluation, items


def overrides_of(run: Run) -> str:
    """The words, beside model and export, that a run was made with."""
    return runs.words_of(run)["overrides"]


def log_comparison(
    found: list[Found], words: dict[str, str], gate: GateConfig, notes: tuple[str, ...] = ()
) -> tuple[list[Entry], str, str]:
    """Log `comparison.*`; returns its entries, the table as Markdown and the recommendation.

    `words` has the overrides of each run, for the labels.
    """
    entries = make_entries(found, words)
    name = ", ".join(dict.fromkeys(str(entry.evaluation.get("name") or "model") for entry in entries))
    with tempfile.TemporaryDirectory(prefix="slmflow-") as folder:
        sentence = write_comparison(entries, gate, name, Path(folder), notes)
        mlflow.log_artifacts(folder)
        said = (Path(folder) / "comparison.md").read_text(encoding="utf-8")
    return entries, said.partition("\n\n")[2], sentence
