"""The builder's float graph with each weight as the GGUF file has it: the same codes, the same scales.

    A · Wᵀ = MatMulNBits(A; codes, scales) + BlockSum(A) · offsetsᵀ

The second term is there for types with minima; block sums of an input are shared by all MatMuls of it. Scales
are stored as the file's float16 and 6-bit integers, and made fp32 by nodes on constants, which onnxruntime
computes once when it loads: so the folder is as large as the file.

The fast kernels round each block of activations to 8 bits. Level `precise` gives them two rows for each one:
the rounded activations, which they then take as they are, and what was rounded off. The sum of both results
has activations of 15 bits, and as each weight is read once for both rows it costs little more than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import onnx

from slmflow.config import Level
from slmflow.deferred import DeferredTensor
from slmflow.export.nodes import NodeWriter
from slmflow.export.rows import Rows, column_rows, table_rows
from slmflow.export.skeleton import stubs, with_values, without_values
from slmflow.gguf.blocks import LAYOUTS

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from slmflow.export.gguf_weights import GgufWeights
    from slmflow.export.streamed import StreamedTensor

FLOAT = onnx.TensorProto.FLOAT
CONTRIB = "com.microsoft"
TINY = 1e-30
"""Scale of a block of activations that are all zero."""


def transcoded(
    model: ir.Model, floats: dict[str, torch.Tensor], weights: GgufWeights, level: Level
) -> ir.Model:
    """A copy of the float model that computes with the file's codes.

    Raises SlmflowError for a weight that is not made of whole rows of the file's tensors.
    """
    skeleton, values = without_values(model)
    writer = _Transcoder(weights, level)
    replaced = set()
    for node in skeleton.graph.node:
        table = floats.get(node.input[0]) if node.op_type == "Gather" else None
        matrix = floats.get(node.input[1]) if node.op_type == "MatMul" else None
        if isinstance(table, DeferredTensor):
            writer.gather(node, table_rows(table))
            replaced.add(node.input[0])
        elif matrix is not None:
            writer.matmul(node, column_rows(matrix))
            replaced.add(node.input[1])
        else:
            writer.nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    kept = [tensor for tensor in skeleton.graph.initializer if tensor.name not in replaced]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    skeleton.graph.ClearField("node")
    skeleton.graph.node.extend(writer.nodes)
    skeleton.graph.ClearField("initializer")
    skeleton.graph.initializer.extend([*kept, *stubs(writer.tensors.values())])
    return with_values(skeleton, values | writer.tensors)


@dataclass(frozen=True)
class _Term:
    """One MatMulNBits of a weight: names of its codes, scales (rows, groups) and zero points, if any."""

    bits: int
    codes: str
    scales: str
    zero_points: str = ""


@dataclass(frozen=True)
class _Stored:
    """A quantised weight in the graph; more than one term are added up."""

    rows: int
    columns: int
    group: int
    terms: tuple[_Term, ...]
    offsets: str | None
    """(groups, rows), where the type has minima."""

    @property
    def blocks(self) -> list[int]:
        """The shape of activations in groups."""
        return [0, 0, self.columns // self.group, self.group]


class _Transcoder(NodeWriter):
    def __init__(self, weights: GgufWeights, level: Level) -> None:
        super().__init__()
        self.weights, self.level = weights, level
        self.tensors: dict[str, StreamedTensor] = {}
        self._stored: dict[tuple[Rows, ...], _Stored] = {}
        self._tables: dict[tuple[Rows, ...], str] = {}

    def matmul(self, node: onnx.NodeProto, runs: tuple[Rows, ...]) -> None:
        """A MatMul for each type among the rows, side by side."""
        kinds = [(kind, tuple(group)) for kind, group in groupby(runs, self.weights.kind)]
        outputs = []
        for number, (kind, group) in enumerate(kinds):
            suffix = "" if len(kinds) == 1 else f"_{number}"
            if kind in LAYOUTS:
                stored = self._store(group, node.input[1] + suffix)
                outputs.append(self._quantised(node.input[0], node.name + suffix, stored))
            else:
                table = self.transposed(self.cast(self._float_table(group, node.input[1] + suffix)))
                outputs.append(self.add("MatMul", [node.input[0], table], node.name + suffix))
        self.ends(outputs, list(node.output), "Concat", f"{node.name}_joined", axis=-1)

    def gather(self, node: onnx.NodeProto, runs: tuple[Rows, ...]) -> None:
        """The rows of an embedding, dequantised as they are looked up."""
        ids, base = node.input[1], node.name
        if self.weights.kind(runs[0]) not in LAYOUTS:
            found = self.add("Gather", [self._float_table(runs, node.input[0]), ids], f"{base}_stored")
            self.nodes.append(onnx.helper.make_node("Cast", [found], node.output, base, to=FLOAT))
            return
        stored = self._store(runs, node.input[0])
        terms = []
        for number, term in enumerate(stored.terms):
            shape = [stored.rows, stored.columns * term.bits // 8]
            flat = self.reshape(term.codes, shape, f"{term.codes}_flat")
            inputs = [flat, ids, term.scales, term.zero_points]
            blocks = {"bits": term.bits, "block_size": stored.group, "gather_axis": 0, "quantize_axis": 1}
            name = f"{base}_{number}"
            terms.append(self.add("GatherBlockQuantized", inputs, name, domain=CONTRIB, **blocks))
        if stored.offsets is not None:
            offsets = self.add("Gather", [stored.offsets, ids], f"{base}_offsets", axis=1)
            offsets = self.add("Transpose", [offsets], f"{base}_offsets_last", perm=[1, 2, 0])
            offsets = self.reshape(offsets, [*stored.blocks[:3], 1], f"{base}_offsets_blocks")
            blocks_of = self.reshape(self.sum(terms, f"{base}_sum"), stored.blocks, f"{base}_blocks")
            whole = self.add("Add", [blocks_of, offsets], f"{base}_shifted")
            terms = [self.reshape(whole, [0, 0, stored.columns], f"{base}_rows")]
        self.ends(terms, list(node.output), "Add", base)

    def _quantised(self, activations: str, base: str, stored: _Stored) -> str:
        rows = self._two_rows(activations, stored) if self.level is Level.precise else activations
        terms = [
            self.add(
                "MatMulNBits",
                [rows, term.codes, term.scales, term.zero_points],
                f"{base}_Q{term.bits}_{number}",
                domain=CONTRIB,
                K=stored.columns,
                N=stored.rows,
                bits=term.bits,
                block_size=stored.group,
                accuracy_level=1 if self.level is Level.exact else 4,
            )
            for number, term in enumerate(stored.terms)
        ]
        if self.level is Level.precise:
            terms = self.halves(terms[0], f"{base}_halves")
        if stored.offsets is not None:
            terms.append(
                self.add("MatMul", [self._block_sums(activations, stored), stored.offsets], f"{base}_offsets")
            )
        return self.sum(terms, f"{base}_sum")

    def _block_sums(self, activations: str, stored: _Stored) -> str:
        blocks = self.reshape(activations, stored.blocks, f"{activations}/blocks_{stored.group}")
        name = f"{activations}/block_sums_{stored.group}"
        return self.once(name, "ReduceSum", [blocks, self.constant(np.array([-1]))], keepdims=0)

    def _two_rows(self, activations: str, stored: _Stored) -> str:
        """Activations as MatMulNBits will round them to 8 bits, and behind them, as more rows, the rest."""
        name = f"{activations}/two_rows_{stored.group}"
        if self.has(name):
            return name
        blocks = self.reshape(activations, stored.blocks, f"{activations}/blocks_{stored.group}")
        sizes = self.add("Abs", [blocks], f"{name}/sizes")
        last = self.constant(np.array([-1]))
        largest = self.add("ReduceMax", [sizes, last], f"{name}/largest", keepdims=1)
        scales = self.add("Mul", [largest, self.number(1 / 127)], f"{name}/scales")
        scales = self.add("Max", [scales, self.number(TINY)], f"{name}/positive_scales")
        codes = self.add("Div", [blocks, scales], f"{name}/scaled")
        codes = self.add("Round", [codes], f"{name}/codes")
        rounded = self.add("Mul", [codes, scales], f"{name}/rounded")
        rest = self.add("Sub", [blocks, rounded], f"{name}/rest")
        both = self.add("Concat", [rounded, rest], f"{name}/both", axis=1)
        return self.reshape(both, [0, 0, stored.columns], name)

    def _store(self, runs: tuple[Rows, ...], name: str) -> _Stored:
        """A weight's initializers and the nodes on them, once for a head that shares its embedding."""
        if runs in self._stored:
            return self._stored[runs]
        layout = LAYOUTS[self.weights.kind(runs[0])]
        rows, columns = self.weights.shape(runs)
        groups = columns // layout.group
        in_halves = self.level is Level.exact and layout.bits == 8
        tensors = self.weights.tensors(runs, name, in_halves=in_halves)
        self.tensors |= {str(tensor.name): tensor for tensor in tensors.values()}
        part = {key: str(tensor.name) for key, tensor in tensors.items()}
        scales = self.cast(part["d"])
        if "scale_codes" in part:
            scales = self.add("Mul", [scales, self.cast(part["scale_codes"])], f"{name}.scales")
            scales = self.reshape(scales, [rows, groups], f"{name}.scales_flat")
        terms: tuple[_Term, ...]
        if in_halves:  # code - 128 = 16 · (upper - 8) + lower
            upper = self.add("Mul", [scales, self.number(16)], f"{name}.upper_scales")
            shape = self.constant(np.array([rows, -(-groups // 2)]))
            zero = onnx.numpy_helper.from_array(np.zeros(1, np.uint8))
            points = self.add("ConstantOfShape", [shape], f"{name}.zero_points", value=zero)
            terms = (_Term(4, part["upper"], upper), _Term(4, part["lower"], scales, points))
        else:
            terms = (_Term(layout.bits, part["codes"], scales),)
        offsets = None
        if "m" in part:
            offsets = self.add("Mul", [scales, self.number(layout.centre)], f"{name}.centred")
            minima = self.cast(part["m"])
            if "minimum_codes" in part:
                minima = self.add("Mul", [minima, self.cast(part["minimum_codes"])], f"{name}.minima")
                minima = self.reshape(minima, [rows, groups], f"{name}.minima_flat")
            sign = "Sub" if "minimum_codes" in part else "Add"
            offsets = self.transposed(self.add(sign, [offsets, minima], f"{name}.offsets"))
        self._stored[runs] = _Stored(rows, columns, layout.group, terms, offsets)
        return self._stored[runs]

    def _float_table(self, runs: tuple[Rows, ...], name: str) -> str:
        """Rows of a float type, as they are."""
        if runs not in self._tables:
            tensor = self.weights.float_rows(runs, f"{name}.rows")
            self._tables[runs] = str(tensor.name)
            self.tensors[str(tensor.name)] = tensor
        return self._tables[runs]
