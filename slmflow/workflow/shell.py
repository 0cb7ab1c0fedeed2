"""What every entry point does around its own work: read the command line, check it, and be a run.

Without upstream ids an entry point's run is the parent and drives the graph up to that step; with ids,
or if the step needs none, it is the step itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import resource
import shlex
import shutil
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from slmflow.compose import Composition, compose, key_of, split_overrides
from slmflow.errors import SlmflowError
from slmflow.workflow.graph import STEP_INPUTS, upstream_ids

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.config import Config

CHOICES = ("model", "export", "overrides")
"""Parameters that every entry point declares beside its upstream ids."""


@dataclass(frozen=True)
class Context:
    """What a step is given."""

    composition: Composition
    upstream: dict[str, Run]
    """Upstream parameter to its finished run; optional ones may be absent."""
    scratch: Path
    """An empty folder that is removed when the step ends."""

    @property
    def config(self) -> Config:
        """The checked configuration."""
        return self.composition.config


def main(step: str, work: Callable[[Context], None], argv: list[str] | None = None) -> int:
    """Run an entry point; returns the exit status: 0, or 1 after one line on standard error."""
    try:
        arguments = parse_arguments(step, sys.argv[1:] if argv is None else argv)
        ids = upstream_ids(step, arguments)
        composition = None
        if arguments.get("model") or not ids:  # else the upstream says which model
            composition = compose(**{name: arguments.get(name, "") for name in CHOICES})
        _quiet()
        _run(step, work, composition, arguments, ids)
    except SlmflowError as error:
        print(f"slmflow {step}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"slmflow {step}: interrupted; run the same command again", file=sys.stderr)
        return 130
    return 0


def _quiet() -> None:
    """Leave the terminal to the steps: what libraries advise their callers is not for our users."""
    warnings.filterwarnings("ignore", module=r"(mlflow|torch|transformers|optimum)\b")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("mlflow.models.model", "mlflow.transformers", "mlflow.pyfunc", "huggingface_hub.repocard"):
        logging.getLogger(name).setLevel(logging.ERROR)


def parse_arguments(step: str, argv: list[str]) -> dict[str, str]:
    """`key=value` words as a dict. Raises SlmflowError for a key that the entry point does not have."""
    allowed = (*CHOICES, *STEP_INPUTS[step])
    arguments = {}
    for word in argv:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals or key not in allowed:
            raise SlmflowError(
                f"unknown argument {word!r}: {step} takes {', '.join(f'{name}=…' for name in allowed)}; "
                'everything else goes into overrides="key=value …"'
            )
        arguments[key] = value
    return arguments


def _run(
    step: str,
    work: Callable[[Context], None],
    chosen: Composition | None,
    arguments: dict[str, str],
    ids: dict[str, str],
) -> None:
    import mlflow

    from slmflow.workflow import runs

    is_step = bool(ids) or not STEP_INPUTS[step]
    upstream = {name: runs.upstream(name, run_id) for name, run_id in ids.items()}
    composition = chosen or _inherit(runs.words_of(next(iter(upstream.values()))), arguments)
    _agree(composition, upstream)
    with _active_run(step) as run:
        mlflow.set_tags({runs.KIND_TAG: "step" if is_step else "driver", runs.STEP_TAG: step})
        words = {**composition.choices, "overrides": composition.overrides}
        mlflow.set_tags({tag: words[word] for word, tag in runs.WORD_TAGS.items()})
        if runs.is_made_up(run.info.run_name):
            name = f"{step} {composition.config.model.name} {composition.choices['export']}"
            mlflow.set_tag("mlflow.runName", name)
        if (dirty := runs.tree_is_dirty()) is not None:
            mlflow.set_tag("slmflow.git.dirty", str(dirty).lower())
        mlflow.log_text(composition.yaml, "config.yaml")
        try:
            if is_step:
                runs.record_upstream(ids)
                _step(work, composition, upstream)
            else:
                from slmflow.workflow.driver import drive

                drive(step, composition, run)
        except BaseException as error:
            mlflow.set_tag(runs.ERROR_TAG, one_line(error))
            if not isinstance(error, SlmflowError):
                mlflow.log_text(traceback.format_exc(), "traceback.txt")
            raise


def _agree(composition: Composition, upstream: dict[str, Run]) -> None:
    """Raise SlmflowError when an upstream was made for another model, or from another export.

    The result would carry a wrong name.
    """
    from slmflow.workflow import runs

    mine = yaml.safe_load(composition.yaml)
    for name, run in upstream.items():
        theirs = yaml.safe_load(runs.artifact(run, "config.yaml").read_text())
        made_of_export = run.data.tags.get(runs.STEP_TAG) in ("export_onnx", "log_onnx") or name == "onnx_run"
        for part in ("model", "export") if made_of_export else ("model",):
            if theirs[part] != mine[part]:
                raise SlmflowError(
                    f"{name}={run.info.run_id} was made for another {part}: "
                    f"{_difference(theirs[part], mine[part], part)}; leave {part}= out to take its own"
                )


def _inherit(words: dict[str, str], arguments: dict[str, str]) -> Composition:
    """The configuration of a step without `model`: its upstream's, replaced where the user says otherwise."""
    own = split_overrides(arguments.get("overrides", ""))
    said = {key_of(token) for token in own}
    kept = [token for token in split_overrides(words["overrides"]) if key_of(token) not in said]
    choices = {
        name: "" if name in said else arguments.get(name) or words[name] for name in ("model", "export")
    }
    return compose(**choices, overrides=shlex.join([*kept, *own]))


def _difference(theirs: dict[str, Any], mine: dict[str, Any], prefix: str) -> str:
    """The first key in which two parts of a configuration differ."""
    for key in sorted({*theirs, *mine}):
        if theirs.get(key) != mine.get(key):
            if isinstance(theirs.get(key), dict) and isinstance(mine.get(key), dict):
                return _difference(theirs[key], mine[key], f"{prefix}.{key}")
            return f"{prefix}.{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
    return f"{prefix} differs"


@contextlib.contextmanager
def _active_run(step: str) -> Any:
    """The run that `mlflow run` made for this process, or a new one when started by hand.

    Raises SlmflowError when the run cannot be found: a store given as a relative path is another
    store in another folder.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    from slmflow.workflow.runs import store_name

    # A name beside the id that `mlflow run` exports makes MLflow refuse both.
    if os.environ.get("MLFLOW_RUN_ID"):
        os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
    try:
        context = mlflow.start_run(run_name=None if os.environ.get("MLFLOW_RUN_ID") else step)
    except MlflowException as error:
        raise SlmflowError(
            f"tracking store {store_name()}: {str(error).splitlines()[0]}; "
            "a sqlite path must be absolute: sqlite:////absolute/path/mlflow.db"
        ) from None
    with context as run:
        yield run


def _step(work: Callable[[Context], None], composition: Composition, upstream: dict[str, Run]) -> None:
    import mlflow

    started = time.time()
    scratch = Path(tempfile.mkdtemp(prefix="slmflow-"))
    try:
        work(Context(composition, upstream, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    mlflow.log_dict(_record(started), "record.json")


def _record(started: float) -> dict[str, Any]:
    """What is true of this execution only, and never compared."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(time.time() - started, 3),
        "peak_resident_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("mlflow", "onnxruntime-genai", "onnxruntime", "transformers", "torch")
        },
    }


def one_line(error: BaseException) -> str:
    """An exception as one line, at most 500 characters."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    name = "" if isinstance(error, SlmflowError) else f"{type(error).__name__}: "
    return f"{name}{first}"[:500]
