"""Rows of a GGUF file's tensors as ONNX initializers, rearranged while they are written."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import onnx_ir as ir

from slmflow.errors import SlmflowError
from slmflow.export.streamed import StreamedTensor
from slmflow.gguf.blocks import LAYOUTS, packed_codes
from slmflow.gguf.families import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from slmflow.export.rows import Rows
    from slmflow.gguf.families import Place
    from slmflow.gguf.file import GgufFile, GgufTensor

Take = Callable[["NDArray[np.uint8]"], "NDArray[Any]"]
FLOATS = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}


class GgufWeights:
    """The tensors of a file by their Hugging Face names."""

    def __init__(self, file: GgufFile) -> None:
        self._tensors: dict[str, tuple[GgufTensor, Place]] = {
            place.name: (file.tensors[name], place) for name, place in places(file).items()
        }

    def kind(self, rows: Rows) -> str:
        """How the rows are stored. Raises SlmflowError for a tensor that the file does not have."""
        return self._of(rows)[0].kind.name

    def shape(self, runs: tuple[Rows, ...]) -> tuple[int, int]:
        """Rows and columns of runs of rows on top of each other."""
        return sum(map(len, runs)), self._of(runs[0])[0].shape[1]

    def tensors(self, runs: tuple[Rows, ...], name: str, *, in_halves: bool) -> dict[str, StreamedTensor]:
        """The parts of quantised rows, which are of one type.

        `codes` (rows, groups, bytes), or `upper` and `lower`, the 4-bit halves of 8-bit codes; `d` (rows,
        groups), or (rows, blocks, 1) with `scale_codes` (rows, blocks, groups of a block); where the type has
        minima `m` and `minimum_codes`, likewise.
        """
        layout = LAYOUTS[self.kind(runs[0])]
        block = self._of(runs[0])[0].kind.block
        rows, columns = self.shape(runs)
        bits = 4 if in_halves else layout.bits
        codes_shape = (rows, columns // layout.group, layout.group * bits // 8)
        whole = (rows, columns // block)
        single = whole if layout.scale_codes is None else (*whole, 1)
        several = (*whole, block // layout.group)
        uint8, half = ir.DataType.UINT8, ir.DataType.FLOAT16
        signed = ir.DataType.INT8 if self.kind(runs[0]) == "Q6_K" else uint8
        wanted = {"upper": 4, "lower": 0} if in_halves else {"codes": 0}

        def codes(shift: int) -> Take:
            mask = (1 << bits) - 1
            return lambda raw: packed_codes(np.asarray(layout.codes(raw) >> shift & mask, np.uint8), bits)

        parts: dict[str, tuple[Take | None, ir.DataType, tuple[int, ...]]] = {
            part: (codes(shift), uint8, codes_shape) for part, shift in wanted.items()
        }
        parts |= {
            "d": (layout.d, half, single),
            "scale_codes": (layout.scale_codes, signed, several),
            "m": (layout.m, half, single),
            "minimum_codes": (layout.minimum_codes, uint8, several),
        }
        return {
            part: self._tensor(runs, f"{name}.{part}", take, dtype, shape)
            for part, (take, dtype, shape) in parts.items()
            if take is not None
        }

    def float_rows(self, runs: tuple[Rows, ...], name: str) -> StreamedTensor:
        """Rows of a float type, as they are: (rows, columns)."""
        return self._tensor(runs, name, lambda raw: raw, FLOATS[self.kind(runs[0])], self.shape(runs))

    def _tensor(
        self,
        runs: tuple[Rows, ...],
        name: str,
        take: Take,
        dtype: ir.DataType,
        shape: tuple[int, ...],
    ) -> StreamedTensor:
        def write(file: BinaryIO) -> None:
            written = 0
            for raw in self._pieces(runs):
                written += file.write(np.ascontiguousarray(take(raw)).tobytes())
            assert written == prod(shape) * dtype.itemsize, name

        return StreamedTensor(name, dtype, shape, write)

    def _pieces(self, runs: tuple[Rows, ...]) -> Iterator[NDArray[np.uint8]]:
        """Raw blocks (n, bytes of a block), in the order of the rows."""
        for run in runs:
            tensor, place = self._of(run)
            order = place.order(tensor.shape[0])[run.start : run.stop]
            for piece in tensor.pieces(order):
                yield piece.reshape(-1, tensor.kind.bytes)

    def _of(self, rows: Rows) -> tuple[GgufTensor, Place]:
        if rows.key not in self._tensors:
            raise SlmflowError(f"the file has no tensor for {rows.key}, which the graph needs")
        return self._tensors[rows.key]
