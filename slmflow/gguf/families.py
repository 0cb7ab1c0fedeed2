"""Architectures of GGUF files as Hugging Face models: where each tensor is, in which order of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.gguf.dimensions import dimensions_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.gguf.file import GgufFile

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
SHARED = {
    EMBEDDING: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
OPTIONAL = (HEAD,)
"""Tensors that a model can do without: a head that is its embedding is not stored again."""
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
ATTENTION = {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"} | {"attn_output": "self_attn.o_proj"}
FEED_FORWARD = {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True)
class Family:
    """One architecture."""

    model_type: str
    model_class: str
    parts: dict[str, str]
    """Part of a block to its module; each has a weight."""
    biases: tuple[str, ...] = ()
    """The parts that have a bias too."""
    permuted: bool = False
    """Whether q and k have their rows in GGML's rotary order."""
    added_to_norms: float = 0.0
    """What llama.cpp's converter has added to every norm's weight."""
    tables: tuple[str, ...] = ()
    """Tensors that are configuration in Hugging Face."""


@dataclass(frozen=True)
class Place:
    """Where a GGUF tensor is in a Hugging Face model."""

    name: str
    heads: int = 0
    """Heads whose rows are in GGML's rotary order; 0 where they are in the usual one."""
    added: float = 0.0
    """What is to be taken off its values."""

    def order(self, rows: int) -> NDArray[np.int64]:
        """For each row of the Hugging Face tensor, the row of the GGUF tensor that it is.

        GGML's rotary embedding wants the two halves of a head interleaved: the inverse of
        `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
        """
        index = np.arange(rows)
        if not self.heads:
            return index
        return index.reshape(self.heads, rows // self.heads // 2, 2).swapaxes(1, 2).reshape(-1)


def family_of(file: GgufFile) -> Family:
    """The family of a file. Raises SlmflowError for an architecture that is not known."""
    if file.architecture not in FAMILIES:
        raise SlmflowError(
            f"{file.path.name}: architecture {file.architecture!r} is not supported: "
            f"only {', '.join(FAMILIES)} are"
        )
    return FAMILIES[file.architecture]


def places(file: GgufFile) -> dict[str, Place]:
    """Every weight of the file by its name there; tables that config.json replaces are left out.

    Raises SlmflowError, naming the tensor, for one that the family does not have or that is missing, and for
    one of another shape than the metadata say.
    """
    family, sizes, found = family_of(file), dimensions_of(file), {}
    heads = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads} if family.permuted else {}
    for name, (part, place) in _expected(family, sizes.layers).items():
        tensor = file.tensors.get(name)
        if tensor is None and name in OPTIONAL:
            continue
        if tensor is None:
            raise SlmflowError(f"{file.path.name}: it has no tensor {name}")
        if tensor.shape != (shape := sizes.shape(part, place)):
            raise SlmflowError(
                f"{file.path.name}: tensor {name} of type {tensor.kind.name} has the shape "
                f"{list(tensor.shape)}, and by the metadata it is {list(shape)}"
            )
        if len(shape) == 1 and tensor.kind.block > 1:
            raise SlmflowError(f"{file.path.name}: tensor {name} is a vector of type {tensor.kind.name}")
        found[name] = Place(place, heads.get(part, 0), family.added_to_norms if "norm" in part else 0.0)
    if unknown := sorted(file.tensors.keys() - found.keys() - set(family.tables)):
        raise SlmflowError(
            f"{file.path.name}: tensor {unknown[0]!r} has no place in a {file.architecture} model"
        )
    return found


def _expected(family: Family, layers: int) -> dict[str, tuple[str, str]]:
    """Every tensor that a model can have: name to its part, and its name in Hugging Face's model."""
    found = {name: (name.removesuffix(".weight"), place) for name, place in SHARED.items()}
    for layer in range(layers):
        for part, module in family.parts.items():
            kinds = ("weight", "bias") if part in family.biases else ("weight",)
            for kind in kinds:
                found[f"blk.{layer}.{part}.{kind}"] = (part, f"model.layers.{layer}.{module}.{kind}")
    return found


FAMILIES = {
    "llama": Family(
        "llama",
        "LlamaForCausalLM",
        NORMS | ATTENTION | FEED_FORWARD,
        permuted=True,
        tables=("rope_freqs.weight",),
    ),
    "phi3": Family(
        "phi3",
        "Phi3ForCausalLM",
        NORMS
        | {
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        tables=("rope_factors_long.weight", "rope_factors_short.weight"),
    ),
    "qwen2": Family(
        "qwen2",
        "Qwen2ForCausalLM",
        NORMS | ATTENTION | FEED_FORWARD,
        biases=("attn_q", "attn_k", "attn_v"),
    ),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", NORMS | ATTENTION | FEED_FORWARD | HEAD_NORMS),
    "gemma3": Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        {
            "attn_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
        | ATTENTION
        | FEED_FORWARD
        | HEAD_NORMS,
        added_to_norms=1.0,
    ),
}
"""By GGUF's name of the architecture (`general.architecture`)."""
