"""A mixture's experts, quantised one at a time while the file is written.

The stock builder holds the codes of all layers, and each layer's experts in fp32 twice.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import to_torch_dtype

from slmflow.deferred import DeferredTensor, as_bytes, stored
from slmflow.export.streamed import StreamedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    Quantise = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """Of one expert's weight (out, in) its codes and scales."""


class Projection:
    """One projection of all experts of a layer, (experts, out, in)."""

    def __init__(self, weight: DeferredTensor, quantise: Quantise, scale_dtype: ir.DataType) -> None:
        self._weight, self._quantise, self._scale_dtype = weight, quantise, scale_dtype
        self._found: list[torch.Tensor] = []
        self._codes, self._scales = quantise(torch.ones(weight.shape[1:]))  # for their shapes

    def codes(self, name: str) -> StreamedTensor:
        """All experts' codes."""
        shape = (len(self._weight), *self._codes.shape)
        return StreamedTensor(name, ir.DataType.UINT8, shape, self._write_codes)

    def scales(self, name: str) -> StreamedTensor:
        """All experts' scales."""
        shape = (len(self._weight), *self._scales.shape)
        return StreamedTensor(name, self._scale_dtype, shape, self._write_scales)

    def _write_codes(self, file: BinaryIO) -> None:
        found = []
        whole = stored(self._weight)
        for expert in whole:
            codes, scales = self._quantise(expert.float())
            file.write(as_bytes(codes.to(torch.uint8)))
            found.append(scales)
        self._found = found

    def _write_scales(self, file: BinaryIO) -> None:
        for scales in self._found or [self._quantise(one.float())[1] for one in stored(self._weight)]:
            file.write(as_bytes(scales.to(to_torch_dtype(self._scale_dtype))))


def add_experts(model: Any, layer: int, gate_up: DeferredTensor, down: DeferredTensor) -> None:
    """Give the builder's `model` the initializers of a layer's experts, in the stock builder's order."""
    names = model.make_moe_expert_names(layer)
    projections = {}
    for part, weight, key in (("gate_up", gate_up, "fc1"), ("down", down, "fc2")):
        bits = model.moe_attrs.get(f"{key}_expert_weight_bits")
        quantise = partial(model.make_qmoe_weights, bits=bits)
        projections[part] = Projection(weight, quantise, ir.DataType(model.io_dtype))
    for kind in ("weight", "scales"):
        for part, projection in projections.items():
            name = names[f"{part}_{kind}"]
            tensor = projection.codes(name) if kind == "weight" else projection.scales(name)
            value = model.make_value(name, tensor.dtype, tensor.shape)
            value.const_value = tensor
            model.model.graph.register_initializer(value)
