"""Keys and values of ended requests, kept for the next turn of the same chat."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import Any

from .engine import Engine

SHORTEST = 16
"""Tokens in common below which copying is not worth while: a system prompt is worth it."""


class Prefixes:
    """At most `entries` caches and `limit` bytes; the one longest unused goes first."""

    def __init__(self, engine: Engine, entries: int, limit: int) -> None:
        self._engine, self._entries, self._limit = engine, entries, limit
        self._kept: OrderedDict[int, tuple[list[int], Any]] = OrderedDict()
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, ids: list[int], cache: Any) -> None:
        """Take over a cache that holds `ids`; what is the beginning of them is superseded."""
        for number, (other, _) in list(self._kept.items()):
            if other == ids[: len(other)]:
                self._drop(number)
        self._engine.park(cache)
        self._kept[next(self._numbers)] = (ids, cache)
        while self._kept and (len(self._kept) > self._entries or self._bytes() > self._limit):
            self._drop(next(iter(self._kept)))

    def take(self, ids: list[int], length: int, step: int) -> Any | None:
        """A cache that begins with the longest known beginning of `ids`, in whole `step`s; None without one.

        At least the last of `ids` is left to read. An engine that cannot turn back has a use for whole caches
        only.
        """
        best, number = 0, -1
        for candidate, (held, _) in self._kept.items():
            common = self._usable(held, ids, step)
            if common > best:
                best, number = common, candidate
        if best < SHORTEST:
            return None
        held, cache = self._kept[number]
        taken = self._engine.reuse(cache, best, length)
        if taken is cache:
            del self._kept[number]
        elif taken is not None:
            self._kept.move_to_end(number)
        return taken

    def _usable(self, held: list[int], ids: list[int], step: int) -> int:
        common = _common(held, ids[:-1])
        if self._engine.turns_back:
            return common // step * step
        return common if common == len(held) else 0

    def _bytes(self) -> int:
        of = self._engine.description
        return sum(cache.held * of.position_bytes + of.row_bytes for _, cache in self._kept.values())

    def _drop(self, number: int) -> None:
        self._engine.close(self._kept.pop(number)[1])


def _common(one: list[int], other: list[int]) -> int:
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)
