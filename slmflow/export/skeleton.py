"""A graph as a protobuf without its weights' values, to be edited, and the model with them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slmflow.export.streamed import StreamedTensor


def without_values(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model as a protobuf whose initializers have name, type and shape only; and their values by name."""
    initializers = model.graph.initializers.values()
    weights = {str(value.name): value.const_value for value in initializers if value.const_value is not None}
    try:
        for value in initializers:
            tensor = weights[str(value.name)]
            value.const_value = ir.ExternalTensor(
                "elsewhere",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
            )
        return ir.to_proto(model), weights
    finally:
        for value in initializers:
            value.const_value = weights[str(value.name)]


def stubs(tensors: Iterable[StreamedTensor]) -> list[onnx.TensorProto]:
    """Initializers without values."""
    return [
        onnx.TensorProto(name=tensor.name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
        for tensor in tensors
    ]


def with_values(skeleton: onnx.ModelProto, weights: dict[str, ir.TensorProtocol]) -> ir.Model:
    """The model of an edited protobuf."""
    model = ir.from_proto(skeleton)
    for name, value in model.graph.initializers.items():
        value.const_value = weights[name]
    return model
