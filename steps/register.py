"""Judge the candidates by the gate, register those that pass, and name the champion.

    mlflow run . -e register --env-manager local
    mlflow run . -e register --env-manager local -P onnx_run=<evaluate's id> -P pipeline_run=<evaluate's id>

Tiny, offline (without ids it makes and evaluates both candidates first):

    mlflow run . -e register --env-manager local -P model=tiny_phi3

Leaves `gate.json`: verdicts, and the versions with their aliases. Registering the same content again
changes nothing.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException

from slmflow.config import GateMode
from slmflow.errors import SlmflowError
from slmflow.files import write_json
from slmflow.registry.gate import Verdict, judge
from slmflow.registry.versions import FINGERPRINT_TAG, Registered, register
from slmflow.workflow import runs
from slmflow.workflow.locks import held
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from slmflow.workflow.step import Context

CANDIDATES = {"onnx": "onnx_run", "pipeline": "pipeline_run"}
"""Candidate, which is also the suffix of its registered model, to the parameter with its evaluation."""


def work(context: Context) -> None:
    """Judge first; nothing is registered unless every candidate may be."""
    mode = context.config.gate.mode
    evaluations = _evaluations(context)
    verdicts = {name: judge(evaluation, context.config.gate) for name, evaluation in evaluations.items()}
    misses = [f"{v.candidate}: {check}" for v in verdicts.values() for check in v.misses]
    registered: dict[str, Registered] = {}
    if not (misses and mode is GateMode.enforce):
        for name, evaluation in evaluations.items():
            registered[name] = _register(context, name, evaluation, verdicts[name])
    outcome = {
        "mode": mode.value,
        "verdicts": {name: verdict.as_dict() for name, verdict in verdicts.items()},
        "registered": {name: asdict(version) for name, version in registered.items()},
    }
    write_json(context.outputs / "gate.json", outcome)
    if misses and mode is GateMode.enforce:
        mlflow.log_artifact(str(context.outputs / "gate.json"))
        raise SlmflowError(f"the gate was missed, nothing is registered: {'; '.join(misses)}")
    for version in registered.values():
        alias = f" @{version.alias}" if version.alias else ""
        print(
            f"  {version.name} v{version.version}{alias}{'' if version.created else ' (was there already)'}"
        )


def _evaluations(context: Context) -> dict[str, dict[str, Any]]:
    found = {}
    for name, parameter in CANDIDATES.items():
        if parameter in context.upstream:
            evaluation = runs.json_artifact(context.upstream[parameter], "evaluation.json")
            if evaluation["candidate"] != name:
                raise SlmflowError(f"{parameter}: that run evaluated the {evaluation['candidate']} candidate")
            found[name] = evaluation
    return found


def _register(context: Context, name: str, evaluation: dict[str, Any], verdict: Verdict) -> Registered:
    evaluate_run = context.upstream[CANDIDATES[name]]
    logged_run = runs.upstream_of(evaluate_run, "logged_run")
    model_id, _ = runs.model_of(logged_run)
    logged = runs.json_artifact(logged_run, "logged.json")
    judged = context.config.gate.mode is not GateMode.off
    alias = "champion" if verdict.passed or not judged else "challenger"
    figures = {**(evaluation["fidelity"] or {}), **evaluation["cost"]}
    tags = {
        FINGERPRINT_TAG: evaluation["fingerprint"],
        "source": logged["source"],
        "commit": str(logged["commit"]),
        "licence": logged["licence"],
        "source_digest": logged["source_digest"],
        "precision": logged["precision"],
        **{f"gguf.{key}": str(value) for key, value in (logged["gguf"] or {}).items()},
        "gate": verdict.word if judged else "not judged",
        "evaluate_run": evaluate_run.info.run_id,
        **{f"metric.{key}": f"{value:.6g}" for key, value in figures.items()},
    }
    checks = "; ".join(str(check) for check in verdict.checks)
    own = logged["gguf"]
    what = f"{own['name']} ({own['quantisation']}), " if own else ""
    description = (
        f"{what}{logged['source']} at {logged['commit']}, {logged['precision']}. "
        f"Gate: {tags['gate']}. {checks}."
    )
    registered_name = f"{context.config.model.name}-{name}"
    with held(f"register {runs.store_name()} {registered_name}"):
        return register(
            registered_name, model_id, logged_run.info.run_id, tags, description, alias, _is_intact
        )


def _is_intact(version: ModelVersion) -> bool:
    """Whether a version's model still holds what was logged; checked by the index of the run that did."""
    try:
        runs.model_of(mlflow.get_run(version.run_id))
    except (SlmflowError, MlflowException):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main("register"))
