"""Architectures of GGUF files as Hugging Face models: where each tensor is, in which order of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.gguf.file import GgufFile

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
SHARED = {
    EMBEDDING: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
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

    Raises SlmflowError, naming the tensor, for one that the family does not have, and for one of another
    shape than its heads allow.
    """
    family, found = family_of(file), {}
    heads = {
        "attn_q": file.integer(f"{file.architecture}.attention.head_count"),
        "attn_k": kv_heads(file),
    }
    for name, tensor in file.tensors.items():
        if name in family.tables:
            continue
        place = SHARED.get(name)
        part = ""
        match name.split("."):
            case ["blk", layer, part, "weight"] if layer.isdecimal() and part in family.parts:
                place = f"model.layers.{int(layer)}.{family.parts[part]}.weight"
            case ["blk", layer, part, "bias"] if layer.isdecimal() and part in family.biases:
                place = f"model.layers.{int(layer)}.{family.parts[part]}.bias"
        if place is None:
            raise SlmflowError(
                f"{file.path.name}: tensor {name!r} has no place in a {file.architecture} model"
            )
        permuted = heads.get(part, 0) if family.permuted else 0
        if permuted and tensor.shape[0] % (2 * permuted):
            raise SlmflowError(
                f"{file.path.name}: tensor {name} has {tensor.shape[0]} rows for {permuted} heads"
            )
        found[name] = Place(place, permuted, family.added_to_norms if "norm" in name else 0.0)
    if EMBEDDING not in found:
        raise SlmflowError(f"{file.path.name}: it has no tensor {EMBEDDING}")
    return found


def kv_heads(file: GgufFile) -> int:
    """Heads of keys and values; as many as of queries where the file does not say."""
    prefix = file.architecture
    key = f"{prefix}.attention.head_count_kv"
    return file.integer(key, file.integer(f"{prefix}.attention.head_count"))


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
