"""The model builder with bounded memory: its graph, and weights that pass through one at a time.

The stock builder holds the model in fp32, each cast of it, the quantised copy and the protobuf at once:
more than 24 GB for a model of 3.8 B parameters (onnxruntime-genai#319, #2047). Here the builder's own code
makes the graph on weights without values (`deferred`), the MatMuls are exchanged in the graph alone
(`splice`), and each weight is read, quantised and dropped while the file is written. The bytes are the same.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import from_torch_dtype
from tqdm import tqdm

from slmflow.deferred import DeferredTensor, deferred_model
from slmflow.errors import SlmflowError
from slmflow.export.experts import add_experts
from slmflow.export.nbits import Recipe
from slmflow.export.splice import quantised
from slmflow.export.streamed import streamed_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slmflow.export.calibration import Moments

Rewrite = Callable[[ir.Model, dict[str, torch.Tensor]], ir.Model]
QUANTISED = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8)
HEAD = "/lm_head/MatMul"


@contextlib.contextmanager
def bounded_memory(moments: Moments | None = None, rewrite: Rewrite | None = None) -> Iterator[None]:
    """Within it, `builder.create_model` reads, quantises and writes one weight at a time.

    With the `moments` of the weights' inputs it quantises by GPTQ, which the builder knows as `rtn`.
    `rewrite` makes another graph of a float one, and of its initializers' tensors by name. Raises
    SlmflowError when either is given for a model whose tensors have other names than its parameters.
    """
    from onnxruntime_genai.models.builder import Model

    tensors: dict[str, torch.Tensor] = {}
    make_small, make_whole = Model.make_initializer, Model.make_moe_expert_initializers

    def deferring(load_whole: Any) -> Any:
        def load_weights(self: Any, input_path: str) -> Any:
            if self.quant_type is None and Path(input_path).is_dir():
                try:
                    return deferred_model(Path(input_path))
                except SlmflowError as error:
                    if moments is not None or rewrite is not None:
                        raise
                    print(f"  the weights are loaded whole: {error}", file=sys.stderr)
            return load_whole(self, input_path)

        return load_weights

    def make_initializer(
        self: Any, tensor: Any, /, name: str, *, to: ir.DataType | None = None, raw: bool = False
    ) -> None:
        if raw or not isinstance(tensor, torch.Tensor):
            make_small(self, tensor, name, to=to, raw=raw)
            return
        streamed = streamed_values(name, tensor, to or from_torch_dtype(tensor.dtype))
        value = self.make_value(name, streamed.dtype, streamed.shape)
        value.const_value = streamed
        self.model.graph.register_initializer(value)
        tensors[name] = tensor

    def make_experts(self: Any, layer: int, experts: Any, gate_up: Any = None, down: Any = None) -> None:
        if self.moe_attrs["op_type"] == "QMoE" and isinstance(gate_up, DeferredTensor):
            add_experts(self, layer, gate_up, down)
        else:
            make_whole(self, layer, experts, gate_up, down)

    def tied_names(self: Any) -> tuple[int, str, str, str]:
        recipe = recipe_of(self, HEAD, moments)
        names = {part: f"lm_head.MatMul.weight{suffix}" for part, suffix in recipe.names.items()}
        return recipe.bits, names["codes"], names["scales"], names.get("zero_points", "")

    def save(self: Any, out_dir: str) -> None:
        save_model(self, out_dir, tensors, moments, rewrite)

    patches: dict[str, Any] = {
        "make_initializer": make_initializer,
        "make_moe_expert_initializers": make_experts,
        "make_tied_quantized_embedding_input_names": tied_names,
        "save_model": save,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.multiple(Model, **patches))
        for cls in [cls for cls in _family(Model) if "load_weights" in vars(cls)]:
            stack.enter_context(patch.object(cls, "load_weights", deferring(cls.load_weights)))
        yield


def _family(cls: Any) -> list[Any]:
    """A class and all that are made of it."""
    return [cls, *(found for child in cls.__subclasses__() for found in _family(child))]


def recipe_of(model: Any, node: str, moments: Moments | None) -> Recipe:
    """How the builder's settings want the weight of a MatMul node quantised."""
    own = model.int4_customized_weight_config.get(node, {})
    return Recipe(
        method=model.quantization_algo if moments is None else "gptq",
        bits=own.get("bits", model.quant_attrs["bits"]),
        block_size=int(model.quant_attrs["matmul_block_size"]),
        is_symmetric=model.quant_attrs["is_symmetric"],
    )


def save_model(
    self: Any,
    out_dir: str,
    tensors: dict[str, torch.Tensor],
    moments: Moments | None,
    rewrite: Rewrite | None,
) -> None:
    """The builder's `save_model`, writing as it quantises; `tensors` are its initializers' values by name."""
    model = self.model
    if self.onnx_dtype in QUANTISED and not (self.quant_type is not None and self.quant_attrs["use_qdq"]):
        excluded = set(self.quant_attrs["nodes_to_exclude"])
        floats = {
            node.inputs[1].name: tensors[node.inputs[1].name]
            for node in model.graph
            if node.op_type == "MatMul" and node.name not in excluded and node.inputs[1].name in tensors
        }
        model = quantised(
            model,
            floats,
            lambda node: recipe_of(self, node, moments),
            self.quant_attrs["accuracy_level"] or 0,
            moments,
        )
    if rewrite is not None:
        model = rewrite(model, tensors)
    model.graph.sort()
    self.stamp_build_metadata(model)
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    with tqdm(total=total, desc="  writing", unit="B", unit_scale=True) as bar:
        path = Path(out_dir) / self.filename
        before = 0

        def written(_: Any, info: Any) -> None:
            nonlocal before
            bar.update(info.offset - before)
            before = info.offset

        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=0, callback=written)
        bar.update(total - before)
    with contextlib.suppress(OSError):
        Path(self.cache_dir).rmdir()
