"""Nodes of a graph, written one after another; those on constants once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx


class NodeWriter:
    """A list of nodes; every method returns the name of the output that it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node of its own; trailing inputs that are empty are left out."""
        while not inputs[-1]:
            inputs = inputs[:-1]
        output = f"{name}/output_0"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def once(self, output: str, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node that makes `output`, unless it is made already."""
        if output not in self._made:
            self._made.add(output)
            node = onnx.helper.make_node(operator, inputs, [output], f"{output}/{operator}", **attributes)
            self.nodes.append(node)
        return output

    def has(self, output: str) -> bool:
        """Whether `once` has made it."""
        return output in self._made

    def ends(
        self, inputs: list[str], outputs: list[str], operator: str, name: str, **attributes: Any
    ) -> None:
        """Join `inputs` under the name that the graph's other nodes know; a single one just takes it."""
        if len(inputs) > 1:
            self.nodes.append(onnx.helper.make_node(operator, inputs, outputs, name, **attributes))
            return
        made = next(node for node in reversed(self.nodes) if inputs[0] in node.output)
        made.output[0] = outputs[0]

    def halves(self, value: str, name: str) -> list[str]:
        """Both halves along the sequence."""
        outputs = [f"{name}/output_0", f"{name}/output_1"]
        self.nodes.append(onnx.helper.make_node("Split", [value], outputs, name, axis=1, num_outputs=2))
        return outputs

    def sum(self, terms: list[str], name: str) -> str:
        """Terms added up, two at a time: `Sum` is slower than `Add`."""
        total = terms[0]
        for number, term in enumerate(terms[1:]):
            total = self.add("Add", [total, term], f"{name}_{number}")
        return total

    def cast(self, value: str) -> str:
        """A constant as fp32."""
        return self.once(f"{value}_fp32", "Cast", [value], to=onnx.TensorProto.FLOAT)

    def transposed(self, value: str) -> str:
        """A constant matrix with its axes exchanged."""
        return self.once(f"{value}_T", "Transpose", [value], perm=[1, 0])

    def reshape(self, value: str, shape: list[int], output: str) -> str:
        """A value in another shape; 0 keeps an axis."""
        return self.once(output, "Reshape", [value, self.constant(np.array(shape))])

    def number(self, value: float) -> str:
        """A scalar in fp32."""
        return self.constant(np.array(value, np.float32))

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """Small values stay in the graph: of one outside of it onnxruntime infers no shapes."""
        name = f"/constants/{value.dtype}/{value.tolist()}"
        return self.once(name, "Constant", [], value=onnx.numpy_helper.from_array(value))
