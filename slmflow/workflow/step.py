"""One step as a run: its key, its work, and what it leaves, whole or not at all."""

from __future__ import annotations

import platform
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient

from slmflow import downloads
from slmflow.errors import SlmflowError
from slmflow.files import read_json, write_json
from slmflow.workflow import runs
from slmflow.workflow.card import step_card
from slmflow.workflow.fingerprint import (
    Ingredients,
    configuration_of,
    differences,
    ingredients,
    key_of_ingredients,
    step_identity,
)
from slmflow.workflow.liveness import beating, scratch_of
from slmflow.workflow.locks import step_lock
from slmflow.workflow.outputs import INDEX, INDEX_TAG, build_index, index_digest, publish
from slmflow.workflow.steps import STEPS
from slmflow.workflow.tags import FINGERPRINT, KEY_TAG, KIND_TAG, NODE_TAG, STEP_TAG, key_tags, upstream_tag

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.compose import Composition
    from slmflow.config import Config


@dataclass
class Context:
    """What a step is given."""

    composition: Composition
    upstream: dict[str, Run]
    """Upstream parameter to its finished run; optional ones may be absent."""
    scratch: Path
    """An empty folder that is removed when the step ends."""
    outputs: Path
    """What is put here becomes the run's artifacts when the step is done; none of it before."""
    parts: Ingredients
    """What the step's key is made of."""
    model_id: str | None = None
    """The LoggedModel that the step has made, set by the step."""
    when_indexed: list[Callable[[], None]] = field(default_factory=list)
    """What the step wants done once its outputs are published and indexed: nothing can be lost by then."""

    @property
    def config(self) -> Config:
        """The checked configuration."""
        return self.composition.config


Work = Callable[[Context], None]


def run_step(step: str, work: Work, composition: Composition, upstream: dict[str, Run], run: Run) -> None:
    """Do a step's work in its run, and index what it left as its last act.

    Raises SlmflowError when a key that the driver planned is not the key of what is here now.
    """
    began = time.time()
    with beating(run.info.run_id):
        step_lock()
        parts = ingredients(
            STEPS[step],
            composition,
            {name: _key_of(name, upstream_run) for name, upstream_run in upstream.items()},
            step_identity(step, composition).content,
        )
        _claim(step, run, parts, upstream)
        mlflow.log_dict(parts, FINGERPRINT)
        scratch = scratch_of(run.info.artifact_uri) or downloads.scratch()
        outputs = scratch / "outputs"
        outputs.mkdir(parents=True)
        try:
            context = Context(composition, upstream, scratch, outputs, parts)
            work(context)
            record = _record(began)
            write_json(outputs / "record.json", record)
            ids = {name: upstream_run.info.run_id for name, upstream_run in upstream.items()}
            (outputs / "card.html").write_text(step_card(step, run, ids, record, outputs))
            _index(run, context)
            for done in context.when_indexed:
                done()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _key_of(parameter: str, upstream: Run) -> str:
    key = upstream.data.tags.get(KEY_TAG)
    if key is None:
        raise SlmflowError(f"{parameter}={upstream.info.run_id}: an old run without a key: run it again")
    return key


def _claim(step: str, run: Run, parts: Ingredients, upstream: dict[str, Run]) -> None:
    """Put the key on the run; one that the driver put there must be the same."""
    key = key_of_ingredients(parts)
    planned = run.data.tags.get(KEY_TAG)
    if planned is not None and planned != key:
        raise SlmflowError("the code, source or environment changed after the plan was made; run again")
    node = step
    if "logged_run" in upstream:
        node = f"{step}_{upstream['logged_run'].data.tags[STEP_TAG].removeprefix('log_')}"
    took = {upstream_tag(name): upstream_run.info.run_id for name, upstream_run in upstream.items()}
    mlflow.set_tags({KIND_TAG: "step", STEP_TAG: step, NODE_TAG: node, **key_tags(key), **took})


def _index(run: Run, context: Context) -> None:
    """Publish the outputs, and last of all the index and its tag, which say that they are whole."""
    uri = run.info.artifact_uri
    published = publish(context.outputs, uri)
    model = None
    if context.model_id is not None:
        location = MlflowClient().get_logged_model(context.model_id).artifact_location
        model = {"id": context.model_id, "location": location}
    index = build_index(published, uri, model)
    place = context.scratch / INDEX
    mlflow.log_artifact(str(write_json(place, index)))
    mlflow.set_tag(INDEX_TAG, index_digest(index))


def agree(composition: Composition, upstream: dict[str, Run]) -> None:
    """Raise SlmflowError when an upstream, or one of its own, was made from another configuration.

    The result would carry a wrong name. Only what that step reads is compared.
    """
    for name, run in upstream.items():
        step = STEPS[run.data.tags[STEP_TAG]]
        theirs: Ingredients = read_json(runs.local_path_of(run, FINGERPRINT))
        mine = {"config": configuration_of(step, composition)}
        lines = differences({"config": theirs["config"]}, mine)
        adapted = any(path.startswith("adapter/") for path in runs.index_of(run)["files"])
        if step.name == "fetch" and adapted != composition.config.model.adapter.given:
            lines = [f"model.adapter {'given' if adapted else 'none'} → {'none' if adapted else 'given'}"]
        if lines:
            raise SlmflowError(
                f"{name}={run.info.run_id} was made from another configuration: {lines[0]} (there → here); "
                "leave model= and export= out to take its own"
            )
        above = [parameter for parameter in step.inputs if upstream_tag(parameter) in run.data.tags]
        agree(composition, {parameter: runs.upstream_of(run, parameter) for parameter in above})


def _record(began: float) -> dict[str, Any]:
    """What is true of this execution only, and never compared."""
    import psutil

    process = psutil.Process()
    return {
        "seconds": round(time.time() - began, 3),
        "seconds_before_work": round(began - process.create_time(), 3),
        "peak_resident_bytes": peak_resident_bytes(),
        "bytes_written": _bytes_written(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            found.name: found.version
            for found in distributions()
            if found.name.startswith("onnxruntime") or found.name in ("mlflow", "transformers", "torch")
        },
    }


def peak_resident_bytes() -> int:
    """The most memory that this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def _bytes_written() -> int | None:
    """Bytes that this process and its children have written, where the system counts them."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))
