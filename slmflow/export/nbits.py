"""MatMul weights as 4 or 8 bit blocks (`MatMulNBits`), quantised one at a time while the file is written.

The arithmetic is onnxruntime's own (but GPTQ's), so the bytes are those of its quantiser; here a weight is
cut into pieces of columns, which no method looks across, and the pieces go through both cores.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import onnx_ir as ir
from onnx_ir.tensor_adapters import to_torch_dtype

from slmflow.deferred import stored
from slmflow.export.gptq import gptq, inverse_factor
from slmflow.export.streamed import StreamedTensor
from slmflow.models.slm_runtime.cores import physical_cores

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

PIECE_ELEMENTS = 1_000_000
"""Weights that a thread quantises at once; k_quant needs some 40 MB for them."""

Parts = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Recipe:
    """How one weight is quantised."""

    method: str
    """`default` (scale by the largest value / -8), `rtn` (by the range / 15), `k_quant` (least squares) or
    `gptq` (errors made up for, by the moments of the inputs)."""
    bits: int
    block_size: int
    is_symmetric: bool

    @property
    def has_zero_points(self) -> bool:
        """Whether blocks have a zero point of their own; those of k_quant and gptq always do."""
        return not self.is_symmetric or self.method in ("k_quant", "gptq")

    @property
    def names(self) -> dict[str, str]:
        """Part to the suffix of its initializer, in the order in which onnxruntime's quantiser adds them."""
        if self.method == "default":
            names = {"codes": f"_Q{self.bits}", "scales": "_scales", "zero_points": "_zero_points"}
        else:
            names = {"scales": "_scale", "zero_points": "_zp", "codes": f"_Q{self.bits}G{self.block_size}"}
        return {part: name for part, name in names.items() if part != "zero_points" or self.has_zero_points}


class QuantisedWeight:
    """One weight of shape (K, N), its blocks along K; computed when the first part is written."""

    def __init__(
        self,
        weight: torch.Tensor,
        recipe: Recipe,
        dtype: ir.DataType,
        moments: NDArray[np.float32] | None = None,
    ) -> None:
        """`dtype` is the float type of the graph, that the weight has before and the scales have after.

        `moments` are the second moments of its inputs, (K, K), which `gptq` needs.
        """
        self.weight, self.recipe, self.dtype, self.moments = weight, recipe, dtype, moments
        self.rows, self.columns = weight.shape
        self._parts: Parts = {}
        self._lock = threading.Lock()

    @cached_property
    def blocks(self) -> int:
        """Blocks of a column."""
        return -(-self.rows // self.recipe.block_size)

    def tensors(self, name: str) -> dict[str, StreamedTensor]:
        """The initializers by part; `name` is the float weight's."""
        bytes_of_block = self.recipe.block_size * self.recipe.bits // 8
        shapes: dict[str, tuple[int, ...]] = {
            "codes": (self.columns, self.blocks, bytes_of_block),
            "scales": (self.columns, self.blocks),
            "zero_points": (self.columns, -(-self.blocks * self.recipe.bits // 8)),
        }
        types = {"codes": ir.DataType.UINT8, "scales": self.dtype, "zero_points": ir.DataType.UINT8}

        def tensor(part: str, suffix: str) -> StreamedTensor:
            def write(file: BinaryIO) -> None:
                file.write(self._take(part).tobytes())

            return StreamedTensor(name + suffix, types[part], shapes[part], write)

        return {part: tensor(part, suffix) for part, suffix in self.recipe.names.items()}

    def _take(self, part: str) -> NDArray[Any]:
        """A part, forgotten once it is taken: each is written once."""
        with self._lock:
            if part not in self._parts:
                self._parts = self._quantise()
            return self._parts.pop(part)

    def _quantise(self) -> Parts:
        weight = stored(self.weight)
        step = max(1, PIECE_ELEMENTS // self.rows)
        factor = None if self.moments is None else inverse_factor(self.moments)

        def piece(start: int) -> Parts:
            part = weight[:, start : start + step]
            if self.recipe.method == "default":  # wants rows in order; torch transposes six times faster
                part = part.contiguous()
            part = part.to(to_torch_dtype(self.dtype))
            values = part.float() if self.dtype is ir.DataType.BFLOAT16 else part
            return quantise(values.numpy(), self.recipe, factor)

        with ThreadPoolExecutor(physical_cores()) as pool:
            pieces = list(pool.map(piece, range(0, self.columns, step)))
        parts = {name: np.concatenate([found[name] for found in pieces]) for name in pieces[0]}
        parts["scales"] = parts["scales"].astype(self.dtype.numpy())
        return parts


def quantise(weight: NDArray[Any], recipe: Recipe, factor: NDArray[np.float32] | None = None) -> Parts:
    """Codes (N, blocks, bytes), scales (N, blocks) and, where it has some, zero points of a weight (K, N)."""
    blocks = -(-weight.shape[0] // recipe.block_size)
    if recipe.method == "default":
        return _quantise_default(weight, recipe)
    if recipe.method == "gptq":
        assert factor is not None
        return _quantise_calibrated(weight, recipe, factor)
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor, quant_tensor_k_quant_cpu

    columns = np.ascontiguousarray(weight.T)
    if padding := blocks * recipe.block_size - columns.shape[1]:
        columns = np.pad(columns, ((0, 0), (0, padding)))
    if recipe.method == "k_quant":
        with np.errstate(divide="ignore", invalid="ignore"):
            codes, scales, zeros = quant_tensor_k_quant_cpu(columns, recipe.bits, recipe.block_size)
    else:
        scheme = "sym" if recipe.is_symmetric else "asym"
        codes, scales, zeros = quant_tensor(columns, recipe.bits, recipe.block_size, scheme, "uint")
    n = weight.shape[1]
    parts = {
        "codes": _packed(codes.astype(np.uint8).reshape(n * blocks, -1), recipe.bits).reshape(n, blocks, -1),
        "scales": scales.astype(weight.dtype).reshape(n, blocks),
    }
    if recipe.has_zero_points:
        parts["zero_points"] = _packed(zeros.astype(np.uint8).reshape(n, blocks), recipe.bits)
    return parts


def _quantise_default(weight: NDArray[Any], recipe: Recipe) -> Parts:
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=recipe.block_size, is_symmetric=recipe.is_symmetric, bits=recipe.bits
    )
    quantizer = DefaultWeightOnlyQuantizer(config)
    codes, scales, zeros = quantizer.qbits_block_quant(np.ascontiguousarray(weight))
    parts = {"codes": codes, "scales": scales}
    return parts | ({"zero_points": zeros} if recipe.has_zero_points else {})


def _quantise_calibrated(weight: NDArray[Any], recipe: Recipe, factor: NDArray[np.float32]) -> Parts:
    codes, scales, zeros = gptq(weight, factor, recipe.bits, recipe.block_size)
    codes = np.pad(codes, ((0, len(scales) * recipe.block_size - len(codes)), (0, 0)))
    by_block = np.ascontiguousarray(codes.T).reshape(-1, recipe.block_size)
    return {
        "codes": _packed(by_block, recipe.bits).reshape(weight.shape[1], len(scales), -1),
        "scales": np.ascontiguousarray(scales.T),
        "zero_points": _packed(np.ascontiguousarray(zeros.T), recipe.bits),
    }


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Two 4-bit codes a byte along the last axis, the first in the lower half; 8, the middle, fills up."""
    if bits == 8:
        return codes
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)), constant_values=8)
    return np.asarray(codes[:, ::2] | codes[:, 1::2] << 4, dtype=np.uint8)
