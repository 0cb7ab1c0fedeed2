"""The engine `continuous`: the same graph through onnxruntime itself, many sequences in one pass.

GroupQueryAttention takes every row's own length from the attention mask and writes new keys and values
into the buffer that it read the old ones from, when past and present are bound to one address. So rows
join and leave between steps. onnxruntime releases Python's lock while it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .cores import physical_cores
from .engine import SCORING_CHUNK, Description, describe

PAGE = 128
"""Positions by which a batch's buffers grow at least: 8 rows are 1.1 times slower in sparse ones of 2,048."""
ALONE = 512
"""Positions that a row alone begins with, if it may ever need them: its speed does not depend on them."""


class Store:
    """Keys and values of some rows: an array of (2 x layers, rows, heads, positions, head size)."""

    def __init__(self, session: ort.InferenceSession, of: Description, rows: int, positions: int) -> None:
        self._session, self._of = session, of
        self.rows, self.positions = rows, positions
        self.memory = self._zeros()
        self._bindings: dict[int, ort.IOBinding] = {}

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        return self.rows * self.positions * self._of.position_bytes

    def resize(self, rows: int, positions: int, used: int) -> None:
        """Other dimensions; the first `used` rows keep what they hold, as far as it fits."""
        old, kept = self.memory, min(positions, self.positions)
        self.rows, self.positions = rows, positions
        self.memory = self._zeros()
        self.memory[:, :used, :, :kept] = old[:, :used, :, :kept]
        self._bindings.clear()

    def copy(self, row: int, source: Store, source_row: int, tokens: int) -> None:
        """Take over the first `tokens` positions of another row."""
        self.memory[:, row, :, :tokens] = source.memory[:, source_row, :, :tokens]

    def _zeros(self) -> NDArray[np.float32]:
        shape = (2 * self._of.layers, self.rows, self._of.heads, self.positions, self._of.head_size)
        return np.zeros(shape, dtype=np.float32)

    def run(self, ids: NDArray[np.int64], lengths: list[int]) -> NDArray[np.float32]:
        """One pass over the first rows, `ids` (rows, new tokens), each with `lengths` positions before them.

        Returns logits, shape (rows, new tokens, vocabulary).
        """
        rows, new = ids.shape
        totals = np.array(lengths, dtype=np.int64) + new
        mask = (np.arange(int(totals.max())) < totals[:, None]).astype(np.int64)
        logits = np.empty((rows, new, self._of.vocabulary), dtype=np.float32)
        binding = self._binding(rows)
        for name, array in (("input_ids", ids), ("attention_mask", mask)):
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        name = self._of.decoder["outputs"]["logits"]
        binding.bind_output(name, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits

    def _binding(self, rows: int) -> ort.IOBinding:
        """Past and present of the first rows at one address; kept, since binding costs a tenth of a step."""
        if rows not in self._bindings:
            binding = self._session.io_binding()
            inputs, outputs = self._of.decoder["inputs"], self._of.decoder["outputs"]
            shape = (rows, *self.memory.shape[2:])
            for layer in range(self._of.layers):
                for array, kind in zip(self.memory[2 * layer : 2 * layer + 2], ("key", "value"), strict=True):
                    place = ("cpu", 0, np.float32, shape, array.ctypes.data)
                    binding.bind_input(inputs[f"past_{kind}_names"] % layer, *place)
                    binding.bind_output(outputs[f"present_{kind}_names"] % layer, *place)
            self._bindings[rows] = binding
        return self._bindings[rows]


@dataclass(eq=False)
class Row:
    """One sequence: its place, and how much of it is filled."""

    store: Store
    length: int
    """Positions that it may need in all."""
    row: int = 0
    tokens: int = 0

    @property
    def held(self) -> int:
        """The positions of its store."""
        return self.store.positions


class ContinuousEngine:
    """Sequences that are decoded together share one store; the others have one of their own."""

    name = "continuous"
    shares = True

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.description = describe(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or physical_cores()
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(folder / self.description.graph), options, providers=["CPUExecutionProvider"]
        )
        refuse_other_inputs(self._session, self.description)
        self._batch = Store(self._session, self.description, 0, PAGE)
        self._rows: list[Row] = []
        self._alone: set[Store] = set()

    def open(self, length: int) -> Row:
        """More positions come as they are needed."""
        return self._own(length, min(length, ALONE))

    def reuse(self, cache: Row, tokens: int, length: int) -> Row | None:
        """A copy of the beginning."""
        row = self._own(length, max(_pages(tokens + 1, length), min(length, ALONE)))
        row.store.copy(0, cache.store, cache.row, tokens)
        row.tokens = tokens
        return row

    def prefill(self, cache: Row, ids: list[int]) -> NDArray[np.float32]:
        """One row, many tokens."""
        self._room(cache, len(ids))
        logits = self._run([cache], np.array([ids], dtype=np.int64))
        return np.array(logits[0, -1])

    def decode(self, caches: list[Row], tokens: list[int]) -> NDArray[np.float32]:
        """One token a row. A row alone stays where it is; several move into the batch's store."""
        if len(caches) == 1 and (caches[0].store is not self._batch or caches[0].row == 0):
            self._room(caches[0], 1)
        else:
            self._join(caches)
        order = sorted(range(len(caches)), key=lambda at: caches[at].row)
        ids = np.array([[tokens[at]] for at in order], dtype=np.int64)
        logits = self._run([caches[at] for at in order], ids)[:, -1]
        return logits[np.argsort(order)]

    def park(self, cache: Row) -> None:
        """Leave the batch."""
        if cache.store is self._batch:
            self._move_out(cache)

    def close(self, cache: Row) -> None:
        """Free the row; the batch's last row moves into the gap."""
        if cache.store is self._batch:
            self._leave(cache)
        else:
            self._alone.discard(cache.store)

    def score(self, ids: list[int], chunk: int = SCORING_CHUNK) -> NDArray[np.float32]:
        """Every position's logits of each pass."""
        cache = self.open(self.description.check_length(ids, 0))
        chunks = []
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            self._room(cache, len(part))
            chunks.append(self._run([cache], np.array([part], dtype=np.int64))[0])
        self.close(cache)
        return np.concatenate(chunks)

    def kv_bytes(self) -> int:
        """Of the batch and of every row with a store of its own."""
        return self._batch.bytes + sum(store.bytes for store in tuple(self._alone))

    def _own(self, length: int, positions: int) -> Row:
        store = Store(self._session, self.description, 1, positions)
        self._alone.add(store)
        return Row(store, length)

    def _run(self, rows: list[Row], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = rows[0].store.run(ids, [row.tokens for row in rows])
        for row in rows:
            row.tokens += ids.shape[1]
        return logits

    def _room(self, row: Row, new: int) -> None:
        """Enough positions for `new` more tokens of a row, or of all rows of the batch."""
        store, needed = row.store, row.tokens + new
        if needed > store.positions:
            used = len(self._rows) if store is self._batch else 1
            store.resize(store.rows, _pages(needed, self._longest(store, row)), used)

    def _longest(self, store: Store, row: Row) -> int:
        return max(other.length for other in self._rows) if store is self._batch else row.length

    def _join(self, caches: list[Row]) -> None:
        """Make the batch's rows exactly these, with room for one token more each."""
        for row in [row for row in self._rows if row not in caches]:
            self._move_out(row)
        joining = [row for row in caches if row.store is not self._batch]
        needed = max(row.tokens for row in caches) + 1
        longest = max(row.length for row in caches)
        if len(caches) > self._batch.rows or needed > self._batch.positions:
            rows = max(self._batch.rows, 1 << (len(caches) - 1).bit_length())
            positions = max(self._batch.positions, _pages(needed, longest))
            self._batch.resize(rows, positions, len(self._rows))
        for row in joining:
            at = len(self._rows)
            self._batch.copy(at, row.store, row.row, row.tokens)
            self._alone.discard(row.store)
            row.store, row.row = self._batch, at
            self._rows.append(row)

    def _move_out(self, row: Row) -> None:
        own = self._own(row.length, _pages(row.tokens + 1, row.length))
        own.store.copy(0, self._batch, row.row, row.tokens)
        self._leave(row)
        row.store, row.row = own.store, 0

    def _leave(self, row: Row) -> None:
        last = self._rows.pop()
        if last is not row:
            self._batch.copy(row.row, self._batch, last.row, last.tokens)
            self._rows[row.row] = last
            last.row = row.row
        if not self._rows:
            self._batch = Store(self._session, self.description, 0, PAGE)


def _pages(needed: int, longest: int) -> int:
    """Positions to hold `needed`, a quarter more so that growing stays rare, never beyond the longest row."""
    pages = -(-(needed + needed // 4) // PAGE) * PAGE
    return max(needed, min(pages, longest))


def refuse_other_inputs(session: ort.InferenceSession, description: Description) -> None:
    """Raise ValueError for a graph that this engine cannot feed: only ids, mask, and fp32 keys and values."""
    inputs = description.decoder["inputs"]
    expected = {"input_ids", "attention_mask"} | {
        inputs[f"past_{kind}_names"] % layer
        for layer in range(description.layers)
        for kind in ("key", "value")
    }
    for argument in session.get_inputs():
        if argument.name not in expected:
            raise ValueError(f"the graph has an input {argument.name!r}, which engine=continuous cannot feed")
        if "past" in argument.name and argument.type != "tensor(float)":
            raise ValueError(
                f"the graph's {argument.name} is {argument.type}: engine=continuous has fp32 only"
            )
