"""ONNX tensors that compute their bytes while they are written, a piece at a time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import onnx_ir as ir
from onnx_ir.tensor_adapters import to_torch_dtype

from slmflow.deferred import as_bytes, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

PIECE_ELEMENTS = 4_000_000
"""Elements worked on at once: 16 MB in fp32."""


class StreamedTensor(ir.LazyTensor):
    """A tensor of known dtype and shape whose bytes come from a function that writes them to a file."""

    def __init__(
        self, name: str, dtype: ir.DataType, shape: tuple[int, ...], write: Callable[[BinaryIO], None]
    ) -> None:
        """`write` may be called more than once, and gives the same bytes each time."""

        def whole() -> ir.Tensor[Any]:
            buffer = io.BytesIO()
            write(buffer)
            values = np.frombuffer(buffer.getvalue(), dtype.numpy()).reshape(shape)
            return ir.Tensor(values, dtype=dtype)

        super().__init__(whole, dtype, ir.Shape(shape), name=name)
        self._write = write

    def tofile(self, file: Any) -> None:
        """Write the bytes at the file's position, without ever holding all of them."""
        self._write(file)


def streamed_values(name: str, tensor: torch.Tensor, dtype: ir.DataType) -> StreamedTensor:
    """A torch tensor, deferred or not, cast to `dtype` while it is written."""

    def write(file: BinaryIO) -> None:
        for piece in _pieces(stored(tensor)):
            file.write(as_bytes(piece.to(to_torch_dtype(dtype))))

    return StreamedTensor(name, dtype, tuple(tensor.shape), write)


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Runs of rows of about `PIECE_ELEMENTS`."""
    if tensor.dim() < 2:
        yield tensor
        return
    rows = max(1, PIECE_ELEMENTS // max(1, tensor[0].numel()))
    for start in range(0, tensor.shape[0], rows):
        yield tensor[start : start + rows]
