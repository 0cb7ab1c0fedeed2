"""The steps, what each needs, and the graph that a configuration makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from slmflow.errors import SlmflowError

STEP_INPUTS: dict[str, tuple[str, ...]] = {
    "fetch": (),
    "export_onnx": ("fetch_run",),
    "log_pipeline": ("fetch_run",),
    "log_onnx": ("export_run",),
    "evaluate": ("logged_run", "reference_run"),
    "register": ("onnx_run", "pipeline_run"),
}
"""Entry point to its upstream parameters; each parameter takes the id of one finished run."""

INPUT_STEPS: dict[str, tuple[str, ...]] = {
    "fetch_run": ("fetch",),
    "export_run": ("export_onnx",),
    "logged_run": ("log_onnx", "log_pipeline"),
    "reference_run": ("evaluate",),
    "onnx_run": ("evaluate",),
    "pipeline_run": ("evaluate",),
}
"""Upstream parameter to the steps whose runs it accepts."""

OPTIONAL_INPUTS = ("reference_run", "pipeline_run")
"""Empty for the pipeline, which makes the reference itself, and for a prebuilt model without a base."""


@dataclass(frozen=True)
class Node:
    """One child run of a driver."""

    name: str
    step: str
    needs: dict[str, str]
    """Upstream parameter to the node whose run it takes."""


def graph(*, with_pipeline: bool) -> list[Node]:
    """Every node, each after what it needs. Without a pipeline there is no reference either."""
    pipeline = [
        Node("log_pipeline", "log_pipeline", {"fetch_run": "fetch"}),
        Node("evaluate_pipeline", "evaluate", {"logged_run": "log_pipeline"}),
    ]
    reference = {"reference_run": "evaluate_pipeline"} if with_pipeline else {}
    pipeline_run = {"pipeline_run": "evaluate_pipeline"} if with_pipeline else {}
    return [
        Node("fetch", "fetch", {}),
        Node("export_onnx", "export_onnx", {"fetch_run": "fetch"}),
        *(pipeline if with_pipeline else []),
        Node("log_onnx", "log_onnx", {"export_run": "export_onnx"}),
        Node("evaluate_onnx", "evaluate", {"logged_run": "log_onnx", **reference}),
        Node("register", "register", {"onnx_run": "evaluate_onnx", **pipeline_run}),
    ]


def needed_for(step: str, nodes: list[Node]) -> list[Node]:
    """The nodes of an entry point and all that they need, in the graph's order."""
    by_name = {node.name: node for node in nodes}
    wanted: set[str] = set()
    stack = [node.name for node in nodes if node.step == step]
    while stack:
        name = stack.pop()
        wanted.add(name)
        stack += [need for need in by_name[name].needs.values() if need not in wanted]
    return [node for node in nodes if node.name in wanted]


def upstream_ids(step: str, arguments: dict[str, str]) -> dict[str, str]:
    """The upstream ids among an entry point's arguments, without the empty ones; none for a driver.

    Raises SlmflowError when some that the step needs are given and others are not.
    """
    ids = {name: arguments[name] for name in STEP_INPUTS[step] if arguments.get(name)}
    missing = [name for name in STEP_INPUTS[step] if name not in ids and name not in OPTIONAL_INPUTS]
    if ids and missing:
        raise SlmflowError(f"{', '.join(ids)} is given, but {missing[0]} is not: give both, or neither")
    return ids
