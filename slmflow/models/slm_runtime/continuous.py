"""The engine `continuous`: the same graph through onnxruntime itself, many sequences in one pass.

GroupQueryAttention takes every row's own length from the attention mask and writes new keys and values
into the buffer that it read the old ones from, when past and present are bound to one address. So rows
join and leave between steps. States of convolutions and of recurrent layers have a row of their own too; they
hold no positions to turn back to. onnxruntime releases Python's lock while it computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .cores import physical_cores
from .engine import SCORING_CHUNK, describe
from .states import feeds_of
from .store import Store

PAGE = 128
"""Positions by which a batch's buffers grow at least: 8 rows are 1.1 times slower in sparse ones of 2,048."""
ALONE = 512
"""Positions that a row alone begins with, if it may ever need them: its speed does not depend on them."""


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
        description = describe(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or physical_cores()
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(folder / description.graph), options, providers=["CPUExecutionProvider"]
        )
        self._feeds = feeds_of(self._session, description)
        self.turns_back = not self._feeds.row_bytes
        self.description = replace(
            description, position_bytes=self._feeds.position_bytes, row_bytes=2 * self._feeds.row_bytes
        )
        self._batch = self._store(0, PAGE)
        self._rows: list[Row] = []
        self._alone: set[Store] = set()

    def open(self, length: int) -> Row:
        """More positions come as they are needed."""
        return self._own(length, min(length, ALONE))

    def reuse(self, cache: Row, tokens: int, length: int) -> Row | None:
        """A copy of the beginning; where there are states, of the whole or not at all."""
        if tokens != cache.tokens and not self.turns_back:
            return None
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

    def _store(self, rows: int, positions: int) -> Store:
        return Store(self._session, self._feeds, rows, positions)

    def _own(self, length: int, positions: int) -> Row:
        store = self._store(1, positions)
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
            self._batch = self._store(0, PAGE)


def _pages(needed: int, longest: int) -> int:
    """Positions to hold `needed`, a quarter more so that growing stays rare, never beyond the longest row."""
    pages = -(-(needed + needed // 4) // PAGE) * PAGE
    return max(needed, min(pages, longest))
