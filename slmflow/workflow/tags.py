"""Tags and artifacts by which runs of this project are told apart and found again."""

from __future__ import annotations

KIND_TAG = "slmflow.kind"
"""`driver` for a run that launches steps, `step` for a step, `command` for anything else."""
STEP_TAG = "slmflow.step"
"""The entry point whose work the run did."""
KEY_TAG = "slmflow.key"
"""The step's key, by which a finished run is found again."""
NODE_TAG = "slmflow.node"
"""The node's name in the graph: `evaluate_onnx` where the step is `evaluate`."""
FINGERPRINT = "fingerprint.json"
"""The ingredients of the key, so that a miss can be explained."""


def key_tags(key: str) -> dict[str, str]:
    """The tags that hold a key: one for people, and one whose own name is nearly unique.

    A store indexes tags by their names, so a lookup by the second reads one row where one by the first
    would read a row for each run.
    """
    return {KEY_TAG: key, key_tag(key): key}


def key_tag(key: str) -> str:
    """The tag by which runs with a key are looked up."""
    return f"{KEY_TAG}.{key[:16]}"


def upstream_tag(parameter: str) -> str:
    """The tag of a step's run that names the run it took by this parameter."""
    return f"slmflow.{parameter}"
