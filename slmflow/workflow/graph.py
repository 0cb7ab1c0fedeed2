"""The graph that a configuration makes of the steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One place in the graph."""

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
