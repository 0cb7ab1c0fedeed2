"""Which stored rows a deferred weight is made of, as far as rows were only stacked, cut and turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from slmflow.deferred import DeferredTensor, Leaf, Operation
from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten
KEEPING = {aten.alias.default, aten.clone.default, aten.detach.default}
RESHAPING = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
TURNING = {aten.t.default, aten.transpose.int, aten.permute.default}
"""Of a matrix: each but the first exchanges the axes that it names, here always both."""


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of the stored matrix `key`."""

    key: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> Rows:
        """Some of them, counted from the first."""
        return Rows(self.key, self.start + start, min(self.stop, self.start + stop))


@dataclass(frozen=True)
class _Stack:
    runs: tuple[Rows, ...]
    turned: bool

    @property
    def axis(self) -> int:
        """The axis along which the stored rows lie."""
        return int(self.turned)


def column_rows(weight: torch.Tensor) -> tuple[Rows, ...]:
    """The stored rows that are the columns of a MatMul's weight (K, N), in order.

    Raises SlmflowError for a weight that is made in another way, whose codes cannot be taken as they are.
    """
    stack = _traced(weight)
    if not stack.turned:
        raise _not_of_rows(weight)
    return stack.runs


def table_rows(weight: torch.Tensor) -> tuple[Rows, ...]:
    """The stored rows that are the rows of an embedding (N, K); raises as `column_rows` does."""
    stack = _traced(weight)
    if stack.turned:
        raise _not_of_rows(weight)
    return stack.runs


def _traced(tensor: torch.Tensor) -> _Stack:
    if not isinstance(tensor, DeferredTensor) or tensor.dim() != 2:
        raise _not_of_rows(tensor)
    made = tensor.origin
    if isinstance(made, Leaf):
        return _Stack((Rows(made.key, 0, tensor.shape[0]),), turned=False)
    function, arguments = made.function, made.arguments
    if function is aten.cat.default:
        return _stacked(tensor, made)
    source = arguments[0]
    if function in KEEPING or (function in RESHAPING and source.shape == tensor.shape):
        return _traced(source)
    if function in TURNING and source.shape == tensor.shape[::-1]:
        stack = _traced(source)
        return _Stack(stack.runs, not stack.turned)
    stack = _traced(source)
    dimension = made.keywords.get("dim", 0)
    if function is aten.slice.Tensor:
        given = (*arguments[1:], *(0, None, None, 1)[len(arguments) - 1 :])
        dimension, start, stop, step = given
        if dimension % 2 == stack.axis and step == 1:
            length = source.shape[stack.axis]
            begin, end, _ = slice(start, stop).indices(length)
            return _Stack(_cut(stack.runs, begin, end), stack.turned)
    elif function in (aten.split.Tensor, aten.split_with_sizes.default) and made.part is not None:
        dimension = arguments[2] if len(arguments) > 2 else dimension
        if dimension % 2 == stack.axis:
            sizes = arguments[1]
            if isinstance(sizes, int):
                begin, end = made.part * sizes, (made.part + 1) * sizes
            else:
                begin, end = sum(sizes[: made.part]), sum(sizes[: made.part + 1])
            return _Stack(_cut(stack.runs, begin, end), stack.turned)
    raise _not_of_rows(tensor)


def _stacked(tensor: DeferredTensor, made: Operation) -> _Stack:
    parts = [_traced(part) for part in made.arguments[0]]
    dimension = made.arguments[1] if len(made.arguments) > 1 else made.keywords.get("dim", 0)
    if len({part.turned for part in parts}) != 1 or dimension % 2 != parts[0].axis:
        raise _not_of_rows(tensor)
    return _Stack(tuple(run for part in parts for run in part.runs), parts[0].turned)


def _cut(runs: Sequence[Rows], start: int, stop: int) -> tuple[Rows, ...]:
    found, before = [], 0
    for run in runs:
        first, last = max(start - before, 0), min(stop - before, len(run))
        if first < last:
            found.append(run.cut(first, last))
        before += len(run)
    return tuple(found)


def _not_of_rows(tensor: torch.Tensor) -> SlmflowError:
    return SlmflowError(f"the graph's weight {tensor} is not made of whole rows of the file's tensors")
