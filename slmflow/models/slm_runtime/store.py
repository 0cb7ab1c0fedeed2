"""The memory of some rows, and one pass of the graph over them."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .states import Feeds, State

Array = NDArray[np.float32]


class Store:
    """An array for each state of the graph, all rows in it.

    What grows is written in place, behind what a row holds. What does not is written into a second array,
    which takes the place of the first when the pass has succeeded: a pass that fails leaves all rows as they
    were.
    """

    def __init__(self, session: ort.InferenceSession, feeds: Feeds, rows: int, positions: int) -> None:
        self._session, self._feeds = session, feeds
        self.rows, self.positions = rows, positions
        self._now, self._next = self._zeros(), self._second()
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        return self.rows * (self.positions * self._feeds.position_bytes + 2 * self._feeds.row_bytes)

    def resize(self, rows: int, positions: int, used: int) -> None:
        """Other dimensions; the first `used` rows keep what they hold, as far as it fits."""
        old, kept = self._now, min(positions, self.positions)
        self.rows, self.positions = rows, positions
        self._now, self._next = self._zeros(), self._second()
        for state, array, before in zip(self._feeds.states, self._now, old, strict=True):
            if state.grows:
                array[:used, :, :kept] = before[:used, :, :kept]
            else:
                array[:used] = before[:used]
        self._bindings.clear()

    def copy(self, row: int, source: Store, source_row: int, tokens: int) -> None:
        """Take over the first `tokens` positions of another row; all of what does not grow."""
        for state, array, other in zip(self._feeds.states, self._now, source._now, strict=True):
            if state.grows:
                array[row, :, :tokens] = other[source_row, :, :tokens]
            else:
                array[row] = other[source_row]

    def run(self, ids: NDArray[np.int64], lengths: list[int]) -> Array:
        """One pass over the first rows, `ids` (rows, new tokens), each with `lengths` positions before them.

        Returns logits, shape (rows, new tokens, vocabulary).
        """
        rows, new = ids.shape
        starts = np.array(lengths, dtype=np.int64)
        totals = starts + new
        feeds = {
            "input_ids": ids,
            "attention_mask": (np.arange(int(totals.max())) < totals[:, None]).astype(np.int64),
        }
        if self._feeds.position_axes:
            at = starts[:, None] + np.arange(new)
            kinds = (3, *at.shape) if self._feeds.position_axes == 3 else at.shape
            feeds["position_ids"] = np.ascontiguousarray(np.broadcast_to(at, kinds))
        logits = np.empty((rows, new, self._feeds.vocabulary), dtype=np.float32)
        binding = self._binding(rows)
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        place = ("cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        binding.bind_output(self._feeds.logits, *place)
        self._session.run_with_iobinding(binding)
        self._exchange(rows)
        return logits

    def _exchange(self, rows: int) -> None:
        """The states that the first rows have now; the other rows' stay what they are."""
        for at, array in self._next.items():
            array[rows:] = self._now[at][rows:]
            self._now[at], self._next[at] = array, self._now[at]

    def _binding(self, rows: int) -> ort.IOBinding:
        """The arrays of the first rows; kept, since binding costs a tenth of a step."""
        turn = next((self._now[at].ctypes.data for at in self._next), 0)
        if (rows, turn) not in self._bindings:
            binding = self._session.io_binding()
            for at, state in enumerate(self._feeds.states):
                before, after = self._now[at], self._next.get(at, self._now[at])
                shape = state.dimensions(rows, self.positions)
                binding.bind_input(state.past, "cpu", 0, np.float32, shape, before.ctypes.data)
                binding.bind_output(state.present, "cpu", 0, np.float32, shape, after.ctypes.data)
            self._bindings[rows, turn] = binding
        return self._bindings[rows, turn]

    def _zeros(self) -> list[Array]:
        return [self._empty(state) for state in self._feeds.states]

    def _second(self) -> dict[int, Array]:
        states = enumerate(self._feeds.states)
        return {at: self._empty(state) for at, state in states if not state.grows}

    def _empty(self, state: State) -> Array:
        return np.zeros(state.dimensions(self.rows, self.positions), dtype=np.float32)
