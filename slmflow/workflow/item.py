"""One step of a plan: what it is made of, what becomes of it, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from slmflow.config import Promote
from slmflow.workflow.fingerprint import Ingredients, key_of_ingredients
from slmflow.workflow.graph import Node

if TYPE_CHECKING:
    from slmflow.compose import Composition


class State(Enum):
    """What becomes of a step."""

    cached = "cached"
    wait = "wait"
    """Another driver is at it."""
    run = "run"
    blocked = "blocked"
    """It cannot be said what it would work on."""
    done = "done"
    failed = "failed"


@dataclass
class Item:
    """One step of one run."""

    name: str
    """The node's name, with the variant's label where variants differ: `export_onnx[export=int4_cpu]`."""
    node: Node
    composition: Composition
    upstream: dict[str, Item]
    """Upstream parameter to the item whose run it takes."""
    parts: Ingredients | None
    """What its key is made of; None when it is blocked."""
    state: State
    reason: str
    run_id: str | None = None
    """The run that is reused or waited for."""
    variant: str = ""
    """What sets its variant apart, the first of those that share it; empty where there is only one."""
    swept_promote: Promote | None = None
    """Of one of several register steps of a model: the gate's word on promotion, left to the sweep's end."""
    pins: list[str] = field(default_factory=list)
    """Overrides that hold a branch or an alias to what it meant when the plan was made."""
    note: str = ""
    """About how much it will ask, for people."""

    @property
    def needs(self) -> dict[str, str]:
        """Upstream parameter to the name of the item whose run it takes."""
        return {parameter: item.name for parameter, item in self.upstream.items()}

    def stands_on(self, other: Item) -> bool:
        """Whether it is made of another's run, directly or not."""
        return any(need is other or need.stands_on(other) for need in self.upstream.values())

    @property
    def key(self) -> str:
        """The key; empty when it is blocked."""
        return "" if self.parts is None else key_of_ingredients(self.parts)

    @property
    def line(self) -> str:
        """The item as the terminal shows it."""
        mark = {State.cached: "✓", State.wait: "◌", State.run: "●"}.get(self.state, "✗")
        word = "to run" if self.state is State.run else self.state.value
        note = f"; {self.note}" if self.note else ""
        return f"{mark} {self.name:<22} {word:<8} {self.reason}{note}"
