"""Parts of an evaluation that an earlier run measured: quality by content, speed and memory by machine too.

They have keys of their own, so that a refactoring upstream that changes no byte, or another machine, does
not compute anew what cannot have changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.artifacts import stored_json
from slmflow.files import canonical_digest, link_tree, read_json
from slmflow.machine import machine
from slmflow.quality.cost import busy
from slmflow.workflow import runs
from slmflow.workflow.lookup import open_store
from slmflow.workflow.outputs import check

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.workflow.asked import Ask
    from slmflow.workflow.fingerprint import Ingredients
    from slmflow.workflow.step import Context

PARTS = ("fidelity", "tasks", "cost")
CONFIG = {
    "fidelity": ("evaluate.window", "evaluate.windows"),
    "tasks": ("evaluate.traces", "evaluate.judge"),
    "cost": ("evaluate.prompt_tokens", "evaluate.new_tokens", "evaluate.repeats"),
}


COUNTED = {"fidelity": ("windows", "of_windows", "places"), "tasks": ("items", "of_items")}
"""What an evaluation's `asked` has of a part, the number first."""


def part_tag(part: str) -> str:
    """The tag of a run that holds the key of one part."""
    return f"slmflow.{part}_key"


LEFT = {"fidelity": ("windows.json", "reference"), "tasks": ("items.json",), "cost": ()}
"""The artifacts that each part leaves beside its figures."""


def part_keys(
    parts: Ingredients, logged: dict[str, Any], reference: dict[str, str], ask: Ask
) -> dict[str, str]:
    """The key of each part: the packaged content, the code and versions that measure it, and its settings.

    `reference` holds the digests of what fidelity and tasks are compared with; cost has the machine. How much
    is asked is in it where that was decided before, else the minutes by which it is decided.
    """
    common = {
        "step": parts["step"],
        "code": parts["code"],
        "installed": parts["installed"],
        "candidate": logged["candidate"],
        "content": logged["fingerprint"],
    }
    own: dict[str, dict[str, Any]] = {
        "fidelity": {
            "reference": reference.get("fidelity", ""),
            "text": parts["identity"]["text"],
            "asked": ask.windows_again or f"{ask.minutes} minutes",
        },
        "tasks": {
            "reference": reference.get("tasks", ""),
            "items": parts["identity"]["items"],
            "asked": ask.items_again or f"{ask.minutes} minutes",
        },
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


def find_parts(keys: dict[str, str], ask: Ask, *, full: bool) -> dict[str, Run]:
    """For each part the newest finished run that measured enough of it and still holds what it left.

    Speed that was measured on a busy machine is not taken over.
    """
    active = mlflow.active_run()
    assert active is not None
    store = open_store(active.info.experiment_id)
    found = {}
    for part, key in keys.items():
        for run in store.runs(part_tag(part), key):
            if run.status != "FINISHED" or check(run, store, full=full).reason is not None:
                continue
            if _suffices(part, stored_json(run.artifact_uri, "evaluation.json"), ask):
                found[part] = mlflow.get_run(run.run_id)
                break
    return found


def _suffices(part: str, evaluation: dict[str, Any], ask: Ask) -> bool:
    if part == "cost":
        return not busy(evaluation)
    return ask.suffices(evaluation.get("asked", {}), COUNTED[part][0])


def take_part(part: str, run: Run, context: Context, asked: dict[str, Any]) -> Any:
    """An earlier run's figures of a part with the files that they rest on; `asked` takes how many."""
    print(f"  {part}: as run {run.info.run_id} measured it")
    for name in LEFT[part]:
        kept = [path for path in runs.index_of(run)["files"] if path == name or path.startswith(f"{name}/")]
        if kept:
            place = runs.artifact(run, name)
            if place.is_dir():
                link_tree(place, context.outputs / name)
            else:
                (context.outputs / name).write_bytes(place.read_bytes())
    evaluation = read_json(runs.artifact(run, "evaluation.json"))
    if part in COUNTED:
        asked |= {name: evaluation["asked"][name] for name in COUNTED[part] if name in evaluation["asked"]}
    return evaluation[part]
