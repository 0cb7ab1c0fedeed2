"""The driver: launches the graph's steps as child runs, and reports on the parent."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException, MlflowException

from slmflow.errors import SlmflowError, first_line
from slmflow.workflow import report, runs
from slmflow.workflow.graph import Node, graph, needed_for

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.compose import Composition


def drive(step: str, composition: Composition, parent: Run) -> None:
    """Run every node that `step` needs, one after another, and print what came of it.

    Raises SlmflowError naming the step that failed, its cause, and the command that runs it again.
    """
    model = composition.config.model
    with_pipeline = composition.base is not None or composition.config.export.exporter != "prebuilt"
    nodes = needed_for(step, graph(with_pipeline=with_pipeline))
    mlflow.log_params({f"choice.{group}": name for group, name in sorted(composition.choices.items())})
    print(
        f"slmflow {step}: {model.name}, export {composition.choices['export']}, {len(nodes)} steps",
        flush=True,
    )
    _prepare_environment()
    ids: dict[str, str] = {}
    try:
        for node in nodes:
            ids[node.name] = _launch(node, composition, ids, parent)
    except SlmflowError:
        report.finish(parent, composition)
        raise
    report.finish(parent, composition)


def _prepare_environment() -> None:
    """What children inherit: our own interpreter first on PATH, and no experiment name beside the id."""
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
    # The registry URI is not handed down by MLflow, unlike the tracking URI.
    os.environ.setdefault("MLFLOW_REGISTRY_URI", mlflow.get_registry_uri())
    logging.getLogger("mlflow.projects").setLevel(logging.WARNING)


def _launch(node: Node, composition: Composition, ids: dict[str, str], parent: Run) -> str:
    """Run one child to its end; returns its run id. Its exit status is the verdict."""
    parameters = {
        "model": composition.choices["model"],
        "export": composition.choices["export"],
        "overrides": composition.overrides,
        **{parameter: ids[need] for parameter, need in node.needs.items()},
    }
    print(f"● {node.name}", flush=True)
    started = time.time()
    try:
        submitted = mlflow.projects.run(
            str(runs.ROOT),
            entry_point=node.step,
            parameters=parameters,
            experiment_id=parent.info.experiment_id,
            run_name=node.name,
            env_manager="local",  # another manager would resolve the environment again for every child
            synchronous=True,
        )
    except (ExecutionException, MlflowException) as error:
        raise _failed(node, parameters, parent, error) from None
    except KeyboardInterrupt as error:
        _failed(node, parameters, parent, error)
        raise
    print(f"✓ {node.name}  {time.time() - started:.1f} s  run {submitted.run_id}", flush=True)
    return str(submitted.run_id)


def _failed(node: Node, parameters: dict[str, str], parent: Run, error: BaseException) -> SlmflowError:
    """Close the child, which MLflow leaves RUNNING when it dies before its launch, and say what to do."""
    child = next((run for run in reversed(runs.children(parent)) if run.info.run_name == node.name), None)
    cause = first_line(error)
    run_id = "none"
    if child is not None:
        run_id = child.info.run_id
        cause = child.data.tags.get(runs.ERROR_TAG, cause)
        if child.info.status == "RUNNING":
            MlflowClient().set_terminated(run_id, status="FAILED")
    words = [f"-P {key}={shlex.quote(value)}" for key, value in parameters.items() if value]
    again = f"mlflow run {shlex.quote(str(runs.ROOT))} -e {node.step} --env-manager local {' '.join(words)}"
    print(f"✗ {node.name}  run {run_id}\n  that step alone again: {again}", file=sys.stderr, flush=True)
    return SlmflowError(f"{node.name} failed: {cause}")
