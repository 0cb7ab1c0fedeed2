"""Where onnxruntime-genai 0.18.0's model builder makes a graph that is wrong, and the right one instead.

`docs/export.md` has the table of them with the value that the stock graph has; each has its test in
tests/export/test_builder_faults.py. Everywhere else the graph is the stock builder's, byte by byte.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import onnx_ir as ir
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def yarn_magnitude(scaling: dict[str, Any]) -> float:
    """By how much YaRN stretches cosines and sines (_compute_yarn_parameters, `attention_factor`)."""

    def of(weight: float) -> float:
        factor = float(scaling["factor"])
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return of(scaling["mscale"]) / of(scaling["mscale_all_dim"])
    return of(1.0)


@contextlib.contextmanager
def corrected() -> Iterator[None]:
    """Within it the builder's rotary embeddings, its search for the head and its stamp are right."""
    import onnxruntime_genai
    from onnxruntime_genai.models.builder import LlamaModel, Model, OLMoModel, SmolLM3Model

    is_head, read_rope, read_llama_rope = Model.has_lm_head, Model.make_rope_init, LlamaModel.make_rope_init
    make_tables, by_parts = Model.make_rotary_embedding_caches, Model.make_inv_freq_rescaled_with_ntk
    find_tied, attend, begin = (
        Model.make_tied_embeddings_init,
        SmolLM3Model.make_attention,
        OLMoModel.__init__,
    )

    def has_lm_head(self: Any, module: Any) -> bool:
        # Stock: any Linear with as many outputs as there are words is the head.
        if (head := getattr(self.weights, "get_output_embeddings", None)) and head() is not None:
            return module is head()
        return bool(is_head(self, module))

    def make_rotary_tables(self: Any, **names: Any) -> Any:
        # Stock: Gemma 3's local layers, whose positions are not scaled, are stretched like the others.
        stretched = self.rope_attrs["rescale_factors"]
        if names.get("cos_cache_name") == "cos_cache_local":
            self.rope_attrs["rescale_factors"] = 1
        try:
            return make_tables(self, **names)
        finally:
            self.rope_attrs["rescale_factors"] = stretched

    def rope(self: Any, config: Any) -> None:
        read_rope(self, config)
        scaling = getattr(config, "rope_parameters", None) or {}
        if scaling.get("rope_type") == "yarn":
            # Stock: the usual bounds are taken for zero where they are not written out, as in most folders,
            # and an attention_factor is not read.
            self.rope_attrs["truncate"] = scaling.get("truncate", True)
            self.rope_attrs["mscale"] = yarn_magnitude(scaling)
            self.rope_attrs["rescale_inv_freq"]["ntk_alpha"] = scaling.get("beta_slow") or 1
            self.rope_attrs["rescale_inv_freq"]["ntk_beta"] = scaling.get("beta_fast") or 32

    def llama_rope(self: Any, config: Any) -> None:
        # Stock: all scalings but Llama 3's own are forgotten, for Llama alone; the general method knows the
        # others, and refuses what it does not know.
        knows = config.rope_parameters["rope_type"] == "llama3"
        (read_llama_rope if knows else rope)(self, config)

    def frequencies(self: Any, unscaled: torch.Tensor) -> torch.Tensor:
        # Stock: YaRN's range is never rounded to whole dimensions, which `truncate: false` alone asks for
        # (transformers.modeling_rope_utils, _compute_yarn_parameters).
        if not self.rope_attrs.get("truncate", True):
            return by_parts(self, unscaled)
        yarn, half = self.rope_attrs["rescale_inv_freq"], len(unscaled)
        low, high = (
            half
            * math.log(self.original_context_length / (yarn[turns] * 2 * math.pi))
            / math.log(self.rope_attrs["theta"])
            for turns in ("ntk_beta", "ntk_alpha")
        )
        start, end = max(math.floor(low), 0), min(math.ceil(high), 2 * half - 1)
        scaled = ((torch.arange(half) - start) / max(end - start, 0.001)).clamp(0, 1)
        return unscaled / yarn["factor"] * scaled + unscaled * (1 - scaled)

    def tied(self: Any, config: Any) -> None:
        # Stock: an 8-bit head leaves the embedding in float, though GatherBlockQuantized takes 8 bits too.
        find_tied(self, config)
        if self.onnx_dtype in (ir.DataType.INT8, ir.DataType.UINT8) and self.is_lm_head_quantized():
            self.tied_quantized_embeddings = bool(self.extra_options.get("shared_embeddings"))

    def attention(self: Any, layer_id: int, *arguments: Any, **names: Any) -> None:
        # Stock: position ids, which the graph does not have, are asked for the layers without positions.
        self.attention_attrs["rope"] = bool(self.no_rope_layers[layer_id])
        attend(self, layer_id, *arguments, **names)

    def olmo(self: Any, *arguments: Any) -> None:
        # Stock: the mean is not taken away where OLMo 1 normalises (OlmoLayerNorm, F.layer_norm at 1e-5).
        begin(self, *arguments)
        self.layernorm_attrs |= {"simple": False, "epsilon": 1e-5}

    def commit(cls: Any) -> str:
        # Stock: the commit of whatever repository site-packages lies in, such as that of this project.
        return str(onnxruntime_genai.__commit__)

    patches: dict[str, Any] = {
        "get_genai_commit": classmethod(commit),
        "has_lm_head": has_lm_head,
        "make_rotary_embedding_caches": make_rotary_tables,
        "make_rope_init": rope,
        "make_tied_embeddings_init": tied,
        "make_inv_freq_rescaled_with_ntk": frequencies,
    }
    with (
        patch.multiple(Model, **patches),
        patch.object(LlamaModel, "make_rope_init", llama_rope),
        patch.object(SmolLM3Model, "make_attention", attention),
        patch.object(OLMoModel, "__init__", olmo),
    ):
        yield
