"""The one order in which a set's items are asked: any beginning of it is a fair sample of the set."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slmflow.quality.items import Item

SEED = "slmflow"


def nested(items: Sequence[Item]) -> list[Item]:
    """All items in the order in which they are asked; the first n of it are those of any larger number.

    Within a kind by the sha256 of SEED and id, which knows nothing of the file's order. Kinds in proportion:
    the item number j (from 0) of a kind of N stands at j / N of the way, so each kind is there from the first
    items on, and among the first n items its number is off its share by at most 1 + kinds · share.
    """
    kinds: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        kinds[item.kind].append(item)
    placed = [
        (Fraction(number, len(members)), at, item)
        for at, members in enumerate(kinds.values())
        for number, item in enumerate(sorted(members, key=lambda item: _drawn(item.id)))
    ]
    return [item for _, _, item in sorted(placed, key=lambda place: place[:2])]


def first(items: Sequence[Item], count: int) -> list[Item]:
    """The first `count` items to be asked, in the set's own order."""
    chosen = {item.id for item in nested(items)[:count]}
    return [item for item in items if item.id in chosen]


def _drawn(name: str) -> str:
    return hashlib.sha256(f"{SEED}\0{name}".encode()).hexdigest()
