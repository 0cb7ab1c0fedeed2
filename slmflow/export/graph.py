"""Whether an exported graph is a valid one, and what it is made of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line

if TYPE_CHECKING:
    from pathlib import Path

    import onnx


def valid_graph(path: Path) -> dict[str, Any]:
    """Check each standard operator, that every input has a source, and that shapes can be inferred.

    Contrib operators (`com.microsoft`, and those that onnxruntime adds to the standard domain, such as
    SimplifiedLayerNormalization) have no schema in onnx: their inputs are checked, the rest is onnxruntime's.
    Weights are not read. Returns opsets, IR version, and how many there are of each operator. Raises
    SlmflowError naming the node that is wrong.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own
        raise SlmflowError(f"{path.name} does not load: {first_line(error)}") from None
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {entry.domain: entry.version for entry in model.opset_import}
    known = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for node in model.graph.node:
        if missing := [name for name in node.input if name and name not in known]:
            raise SlmflowError(f"{path.name}: node {node.name} takes {missing[0]}, which nothing makes")
        known.update(node.output)
        if onnx.defs.has(node.op_type, node.domain):
            try:
                onnx.checker.check_node(node, context)
            except onnx.checker.ValidationError as error:
                raise SlmflowError(f"{path.name}: node {node.name}: {first_line(error)}") from None
    if missing := [value.name for value in model.graph.output if value.name not in known]:
        raise SlmflowError(f"{path.name}: nothing makes the output {missing[0]}")
    try:
        onnx.shape_inference.infer_shapes(_without_weights(model), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise SlmflowError(f"{path.name}: shapes do not fit: {first_line(error)}") from None
    operators = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node
    )
    return {"opsets": opsets, "ir_version": model.ir_version, "operators": dict(sorted(operators.items()))}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers as inputs, and no notes on shapes in between.

    Inference would look for the values of external initializers beside the process; and the builder notes
    its constants as scalars, which they are not.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in model.graph.initializer:
        bare.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    bare.graph.ClearField("initializer")
    bare.graph.ClearField("value_info")
    return bare
