"""The graph of the steps as a value: what needs whose run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Node:
    """One place in the graph."""

    step: str
    """The entry point that does its work."""
    needs: dict[str, Node] = field(default_factory=dict)
    """Upstream parameter to the node whose run it takes."""

    @property
    def name(self) -> str:
        """The step, with the kind of its model where one step measures both: `evaluate_onnx`."""
        logged = self.needs.get("logged_run")
        return f"{self.step}_{logged.step.removeprefix('log_')}" if logged else self.step


Graph = Callable[[bool], Node]
"""Of whether there is a pipeline to the last node, from which all others are reached."""


def node(step: str, **needs: Node) -> Node:
    """A step that takes the runs of others: `node("log_onnx", export_run=exported)`."""
    return Node(step, needs)


def needed_for(step: str, last: Node) -> list[Node]:
    """The nodes of an entry point and all that they need, each after what it needs."""
    found: list[Node] = []

    def visit(place: Node, wanted: bool) -> None:
        wanted = wanted or place.step == step
        for need in place.needs.values():
            visit(need, wanted)
        if wanted and place not in found:
            found.append(place)

    visit(last, False)
    return found
