"""Whether an evaluation asked enough for the gate of today, and about how much one will ask: for the plan.

Nothing here imports MLflow.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from slmflow.registry.needed import items_needed, tokens_needed

if TYPE_CHECKING:
    from slmflow.config import Config
    from slmflow.workflow.item import Item
    from slmflow.workflow.lookup import Found, Store

ASKED_TAG = "slmflow.asked"
"""Tag of a run of `evaluate`: windows and items that it asked, and how many there were."""


def too_little(run: Found, item: Item, store: Store) -> str | None:
    """Why a finished evaluation does not suffice; None if it does.

    The first evaluation of a model must have asked what the gate's margins need now, as far as there is so
    much. The others must have asked what that one did.
    """
    asked = _asked(run)
    if not asked:
        return None
    reference = item.upstream.get("reference_run")
    if reference is not None:
        first = store.run(reference.run_id) if reference.run_id else None
        theirs = _asked(first) if first else {}
        same = all(asked[name] == theirs.get(name, asked[name]) for name in ("windows", "items"))
        return None if same else f"{reference.name} asked {_shown(theirs)}, it {_shown(asked)}"
    config = item.composition.config
    if config.evaluate.like:
        return None
    windows, items = needed(config, asked["parameters"])
    if asked["windows"] >= min(windows, asked["of_windows"]) and asked["items"] >= min(
        items, asked["of_items"]
    ):
        return None
    wanted = _shown({"windows": windows, "items": items})
    return f"the gate's margins need {wanted}, it asked {_shown(asked)}"


def needed(config: Config, *sizes: float | None) -> tuple[float, float]:
    """Windows and items that the gate's margins need; infinite where none suffice.

    Of a model with so many parameters; of several sizes, what the least demanding one needs.
    """
    scored = config.evaluate.window - 1 - config.evaluate.window // 2
    tokens = min(tokens_needed(config.gate, size) for size in sizes)
    windows = math.ceil(tokens / scored) if tokens < math.inf else math.inf
    if config.evaluate.items == "none":
        return windows, 0
    from slmflow.quality.items import read_items
    from slmflow.quality.order import nested

    kinds = [item.kind for item in nested(read_items(config.evaluate.items).rows)]
    return windows, items_needed(kinds, config.gate.max_task_score_decrease)


def _asked(run: Found) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(run.tags.get(ASKED_TAG, "{}"))
    return value


def _shown(amount: dict[str, Any]) -> str:
    return f"{amount['windows']} windows and {amount['items']} items"
