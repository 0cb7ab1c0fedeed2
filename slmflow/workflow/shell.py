"""What every entry point does around its own work: read the command line, check it, and be a run.

Without upstream ids an entry point's run is the parent and drives the graph up to that step; with ids,
or as a run that a driver made, it is the step itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from slmflow.compose import Composition, compose
from slmflow.errors import SlmflowError, exit_status, one_line
from slmflow.overrides import key_of, split_overrides, value_of
from slmflow.sweep import Variant, variants
from slmflow.words import CHOICES, Words, read_words
from slmflow.workflow.steps import STEPS, upstream_ids

if TYPE_CHECKING:
    from mlflow.entities import Run


def main(step: str, argv: list[str] | None = None) -> int:
    """Run an entry point; returns the exit status: 0, or 1 after one line on standard error.

    The work itself is the function `work` of the module `steps.<step>`, which only a step imports.
    """
    words = sys.argv[1:] if argv is None else argv
    interrupted = "interrupted; the same command goes on where it stopped"
    return exit_status(step, lambda: _checked_run(step, words), interrupted)


def _checked_run(step: str, argv: list[str]) -> int:
    words = read_words(step, argv, (*CHOICES, *STEPS[step].inputs))
    ids = upstream_ids(step, words.declared)
    chosen: list[Variant] = []
    if words.choices["model"] or not ids:  # else the upstream says which model
        chosen = variants(**words.choices)
    if ids and len(chosen) > 1:
        raise SlmflowError("a step with upstream ids is one step: give one value for each key")
    _quiet()
    signal.signal(signal.SIGTERM, _interrupt)
    _run(step, chosen, words, ids)
    return 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _quiet() -> None:
    """Leave the terminal to the steps: what libraries advise their callers is not for our users."""
    warnings.filterwarnings("ignore", module=r"(mlflow|torch|transformers|optimum)\b")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("mlflow.models.model", "mlflow.transformers", "mlflow.pyfunc", "huggingface_hub.repocard"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _run(step: str, chosen: list[Variant], given: Words, ids: dict[str, str]) -> None:
    import mlflow

    from slmflow.tracking import last_words
    from slmflow.workflow import launch, runs
    from slmflow.workflow.tags import KIND_TAG, STEP_TAG

    upstream = {name: runs.upstream(name, run_id) for name, run_id in ids.items()}
    if not chosen:
        inherited = _inherit(runs.words_of(next(iter(upstream.values()))), given.choices)
        chosen = [Variant("", inherited)]
    composition = chosen[0].composition
    with active_run(step) as run:
        launched = KIND_TAG in run.data.tags  # by a driver, which has checked what is checked below
        is_step = bool(ids) or launched
        if is_step and not launched:
            from slmflow.workflow.step import agree

            agree(composition, upstream)
        words = {**composition.choices, "overrides": composition.overrides}
        if not is_step:
            words["overrides"] = given.overrides
        tags = {runs.WORD_TAGS[word]: words[word] for word in runs.WORD_TAGS}
        tags[launch.ARGUMENTS_TAG] = json.dumps(given.typed)
        mlflow.set_tags({KIND_TAG: "step" if is_step else "driver", STEP_TAG: step, **tags})
        if runs.is_made_up(run.info.run_name):
            name = f"{step} {composition.config.model.name} {composition.choices['export']}"
            mlflow.set_tag("mlflow.runName", name)
        mlflow.log_text(composition.yaml, "config.yaml")
        runs.record_params(run, {**params_of(words["overrides"]), **ids})
        try:
            if not launched:
                launch.record_checkout()
            if is_step:
                from slmflow.workflow.step import run_step

                work = import_module(f"steps.{step}").work
                run_step(step, work, composition, upstream, run)
            else:
                from slmflow.workflow.driver import drive

                graph = import_module("driver").graph
                drive(step, chosen, given.typed, run, graph)
        except BaseException as error:
            text = traceback.format_exc()
            with last_words(error):
                mlflow.set_tag(runs.ERROR_TAG, one_line(error))
                if not isinstance(error, SlmflowError):
                    mlflow.log_text(text, "traceback.txt")
                if is_step:
                    from slmflow.workflow.card import failure_card

                    mlflow.log_text(failure_card(step, run, text), "card.html")
            raise


def _inherit(words: dict[str, str], given: dict[str, str]) -> Composition:
    """The configuration of a step without `model`: its upstream's, replaced where the user says otherwise."""
    own = split_overrides(given["overrides"])
    said = {key_of(token) for token in own}
    kept = [token for token in split_overrides(words["overrides"]) if key_of(token) not in said]
    choices = {name: "" if name in said else given[name] or words[name] for name in ("model", "export")}
    return compose(**choices, overrides=shlex.join([*kept, *own]))


def params_of(overrides: str) -> dict[str, str]:
    """Each override as a param of its own name, so that MLflow compares runs by it."""
    return {key_of(token): value_of(token) for token in split_overrides(overrides) if "=" in token}


def _is_closed_step(run: Run) -> bool:
    """Whether a driver has closed a child's run; one that `mlflow run` made may begin after all."""
    from slmflow.workflow.tags import KIND_TAG

    return run.info.status == "KILLED" and run.data.tags.get(KIND_TAG) == "step"


@contextlib.contextmanager
def active_run(step: str) -> Any:
    """The run that `mlflow run` made for this process, or a new one when started by hand.

    Raises SlmflowError when the run cannot be found: a store given as a relative path is another
    store in another folder.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    from slmflow.tracking import raise_problem, store_name

    # A name beside the id that `mlflow run` exports makes MLflow refuse both.
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
    try:
        if run_id and _is_closed_step(mlflow.get_run(run_id)):
            raise SlmflowError(f"run {run_id} was closed by another driver, which took this process for dead")
        context = mlflow.start_run(run_name=None if run_id else step)
    except MlflowException as error:
        raise_problem(error)
        store = store_name()
        hint = "a sqlite path must be absolute: sqlite:////absolute/path/mlflow.db"
        if store.startswith("databricks"):
            hint = "name an experiment: export MLFLOW_EXPERIMENT_NAME=/Users/<you>/slmflow"
        raise SlmflowError(f"tracking store {store}: {str(error).splitlines()[0]}; {hint}") from None
    with context as run:
        yield _without_userinfo(run)


def _without_userinfo(run: Run) -> Run:
    """The run, after what `mlflow run` put on it of a git address's user name and password was taken off."""
    from mlflow import MlflowClient

    from slmflow.tracking import without_userinfo

    tags = {name: value for name, value in run.data.tags.items() if name.startswith("mlflow.")}
    covered = {name: bare for name, value in tags.items() if (bare := without_userinfo(value)) != value}
    for name, bare in covered.items():
        MlflowClient().set_tag(run.info.run_id, name, bare)
    return MlflowClient().get_run(run.info.run_id) if covered else run
