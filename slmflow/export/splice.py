"""The builder's float graph with its MatMuls made MatMulNBits: the nodes now, the weights when written.

Works on a protobuf without values (an initializer says its name, type and shape), because onnxruntime's own
graph passes take one, and the order in which they leave nodes and initializers is part of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnxruntime.quantization.neural_compressor.onnx_model import ONNXModel as CompressorModel
from onnxruntime.quantization.onnx_model import ONNXModel

from slmflow.deferred import leaf_names
from slmflow.export.nbits import QuantisedWeight, Recipe
from slmflow.export.skeleton import stubs, with_values, without_values

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir
    import torch

    from slmflow.export.calibration import Moments
    from slmflow.export.streamed import StreamedTensor


def quantised(
    model: ir.Model,
    floats: dict[str, torch.Tensor],
    recipe_of: Callable[[str], Recipe],
    accuracy_level: int,
    moments: Moments | None = None,
) -> ir.Model:
    """A copy of the model whose MatMuls of the weights in `floats` are MatMulNBits by their node's recipe."""
    skeleton, weights = without_values(model)
    graph = skeleton.graph
    matmuls = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in floats]
    recipes = {node.name: recipe_of(node.name) for node in matmuls}
    # The default method makes a pass for each width, the body's first, each in the graph's order.
    body = min((recipe.bits for recipe in recipes.values()), default=4)
    in_place = all(recipe.method == "default" for recipe in recipes.values())
    if in_place:
        matmuls.sort(key=lambda node: recipes[node.name].bits != body)
    spliced: dict[str, onnx.NodeProto] = {}
    for node in matmuls:
        float_name = node.input[1]
        dtype = weights[float_name].dtype
        inputs = None if moments is None else moments[leaf_names(floats[float_name])[0]]
        weight = QuantisedWeight(floats[float_name], recipes[node.name], dtype, inputs)
        tensors = weight.tensors(float_name)
        graph.initializer.extend(stubs(tensors.values()))
        weights |= {str(tensor.name): tensor for tensor in tensors.values()}
        spliced[node.name] = _node(node, weight, tensors, accuracy_level)
    if in_place:
        _replace_in_place(skeleton, spliced)
    else:
        _replace_at_the_end(skeleton, matmuls, spliced)
    return with_values(skeleton, weights)


def _node(
    node: onnx.NodeProto, weight: QuantisedWeight, tensors: dict[str, StreamedTensor], accuracy_level: int
) -> onnx.NodeProto:
    """The MatMulNBits that stands for a MatMul; as onnxruntime has it, an accuracy level of 0 is not said."""
    recipe = weight.recipe
    parts = [part for part in ("codes", "scales", "zero_points") if part in tensors]
    attributes = {
        "K": weight.rows,
        "N": weight.columns,
        "bits": recipe.bits,
        "block_size": recipe.block_size,
        "accuracy_level": accuracy_level or None,
    }
    return onnx.helper.make_node(
        "MatMulNBits",
        inputs=[node.input[0], *(tensors[part].name for part in parts)],
        outputs=node.output,
        name=f"{node.name}_Q{recipe.bits}",
        domain="com.microsoft",
        **attributes,
    )


def _replace_in_place(skeleton: onnx.ModelProto, spliced: dict[str, onnx.NodeProto]) -> None:
    """As `MatMulNBitsQuantizer.process` leaves it for the default method."""
    nodes = [spliced.get(node.name, node) for node in skeleton.graph.node]
    skeleton.graph.ClearField("node")
    skeleton.graph.node.extend(nodes)
    ONNXModel(skeleton).clean_initializers()


def _replace_at_the_end(
    skeleton: onnx.ModelProto, matmuls: list[onnx.NodeProto], spliced: dict[str, onnx.NodeProto]
) -> None:
    """As `rtn_quantize` leaves it: new nodes behind the others, then its own topological order."""
    wrapped = CompressorModel(skeleton)
    for node in matmuls:
        if wrapped.get_initializer_share_num(node.input[1]) == 1:
            wrapped.remove_initializer(wrapped.get_initializer(node.input[1]))
    wrapped.add_nodes([spliced[node.name] for node in matmuls])
    wrapped.remove_nodes(matmuls)
    wrapped.topological_sort()
