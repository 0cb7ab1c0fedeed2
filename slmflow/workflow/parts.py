"""Parts of an evaluation that an earlier run measured: quality by content, speed and memory by machine too.

They have keys of their own, so that a refactoring upstream that changes no byte, or another machine, does
not compute anew what cannot have changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.files import canonical_digest, link_tree, read_json
from slmflow.machine import machine
from slmflow.workflow import runs
from slmflow.workflow.lookup import open_store
from slmflow.workflow.outputs import check

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.workflow.fingerprint import Ingredients
    from slmflow.workflow.step import Context

PARTS = ("fidelity", "tasks", "cost")
CONFIG = {
    "fidelity": ("evaluate.window", "evaluate.windows"),
    "tasks": ("evaluate.traces", "evaluate.judge"),
    "cost": ("evaluate.prompt_tokens", "evaluate.new_tokens", "evaluate.repeats"),
}


def part_tag(part: str) -> str:
    """The tag of a run that holds the key of one part."""
    return f"slmflow.{part}_key"


LEFT = {"fidelity": ("windows.json", "reference"), "tasks": ("items.json",), "cost": ()}
"""The artifacts that each part leaves beside its figures."""


def part_keys(parts: Ingredients, logged: dict[str, Any], reference: dict[str, str]) -> dict[str, str]:
    """The key of each part: the packaged content, the code and versions that measure it, and its settings.

    `reference` holds the digests of what fidelity and tasks are compared with; cost has the machine.
    """
    common = {
        "step": parts["step"],
        "code": parts["code"],
        "installed": parts["installed"],
        "candidate": logged["candidate"],
        "content": logged["fingerprint"],
    }
    own: dict[str, dict[str, Any]] = {
        "fidelity": {"reference": reference.get("fidelity", ""), "text": parts["identity"]["text"]},
        "tasks": {"reference": reference.get("tasks", ""), "items": parts["identity"]["items"]},
        "cost": {"machine": machine(), "text": parts["identity"]["text"]},
    }
    return {
        part: canonical_digest(
            {**common, **own[part], "config": {key: parts["config"][key] for key in CONFIG[part]}}
        )
        for part in PARTS
    }


def reference_of(context: Context, logged: dict[str, Any]) -> dict[str, str]:
    """The digests of a candidate's references by part: the pipeline's is made of its own content."""
    if logged["candidate"] == "pipeline":
        return {"fidelity": str(logged["fingerprint"])}
    if "reference_run" not in context.upstream:
        return {}
    files = runs.index_of(context.upstream["reference_run"])["files"]
    names = {"fidelity": "reference/logprobs.npy", "tasks": "items.json"}
    return {part: str(files[name]["sha256"]) for part, name in names.items() if name in files}


def find_parts(keys: dict[str, str], *, full: bool) -> dict[str, Run]:
    """For each part the newest finished run that measured it and still holds what it left."""
    active = mlflow.active_run()
    assert active is not None
    store = open_store(active.info.experiment_id)
    found = {}
    for part, key in keys.items():
        for run in store.runs(part_tag(part), key):
            if run.status == "FINISHED" and check(run, store, full=full).reason is None:
                found[part] = mlflow.get_run(run.run_id)
                break
    return found


def take_part(part: str, run: Run, context: Context) -> Any:
    """An earlier run's figures of a part, with the files that they rest on."""
    print(f"  {part}: as run {run.info.run_id} measured it")
    for name in LEFT[part]:
        kept = [path for path in runs.index_of(run)["files"] if path == name or path.startswith(f"{name}/")]
        if kept:
            place = runs.artifact(run, name)
            if place.is_dir():
                link_tree(place, context.outputs / name)
            else:
                (context.outputs / name).write_bytes(place.read_bytes())
    return read_json(runs.artifact(run, "evaluation.json"))[part]
