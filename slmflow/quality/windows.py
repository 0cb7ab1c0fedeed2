"""Windows of a text: what is read, and which of its positions are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slmflow.files import canonical_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A run of tokens whose second half is scored, as llama.cpp's perplexity does."""

    ids: list[int]
    number: int = 0
    """Its place in the text, from 0."""

    @property
    def scored(self) -> slice:
        """Positions whose next token is scored: from the middle to the one before last."""
        return slice(len(self.ids) // 2, len(self.ids) - 1)

    @property
    def targets(self) -> NDArray[np.int64]:
        """The true next token of each scored position."""
        return np.asarray(self.ids[len(self.ids) // 2 + 1 :], dtype=np.int64)


def windows_of(ids: list[int], size: int, count: int, bos: list[int]) -> list[Window]:
    """The first `count` whole windows of `size` tokens, one after another, of the ids of a text.

    Where the tokenizer begins texts with `bos`, each window begins with it in place of its first tokens, as
    llama.cpp's perplexity does: a model that has learnt with it has no proper distribution without it.
    """
    starts = range(0, len(ids) - size + 1, size)
    return [
        Window([*bos, *ids[start + len(bos) : start + size]], number)
        for number, start in enumerate(starts[:count])
    ]


def spread(count: int) -> list[int]:
    """The order in which windows are asked, by their places: however many, they are all over the text.

    The first, the last, and then whatever is farthest from those before: a text is rarely of one kind from
    its beginning to its end.
    """
    order: list[int] = []
    away = [count] * count
    for _ in range(count):
        chosen = max(range(count), key=away.__getitem__)  # the first of those that are as far
        order.append(chosen)
        away = [min(distance, abs(place - chosen)) for place, distance in enumerate(away)]
    return order


def digest_of(windows: list[Window]) -> str:
    """The sha256 of what is read and which positions are scored, as 64 hexadecimal digits."""
    return canonical_digest([[window.ids, window.scored.start, window.scored.stop] for window in windows])
