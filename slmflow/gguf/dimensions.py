"""The sizes of a GGUF file's model, and the shape that each of its tensors must have by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from slmflow.gguf.file import GgufFile

MOST_LAYERS = 1024
MOST_ANGLES = 1 << 28
"""Positions by the width of a head: rotary tables of so many values are made, 1 GB."""


@dataclass(frozen=True)
class Dimensions:
    """What metadata says of a model's size."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    """Weights of a head's query, key or value."""
    context: int
    vocabulary: int

    def shape(self, part: str, name: str) -> tuple[int, ...]:
        """Of the weight of a `part`, as families name them (`attn_q`), or of a tensor beside the layers."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        if part == "ffn_up" and name.endswith("gate_up_proj.weight"):
            return 2 * self.feed_forward, self.hidden
        shapes = {
            "attn_q": (queries, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_qkv": (queries + 2 * keys, self.hidden),
            "attn_output": (self.hidden, queries),
            "ffn_gate": (self.feed_forward, self.hidden),
            "ffn_up": (self.feed_forward, self.hidden),
            "ffn_down": (self.hidden, self.feed_forward),
            "attn_q_norm": (self.head,),
            "attn_k_norm": (self.head,),
            "token_embd": (self.vocabulary, self.hidden),
            "output": (self.vocabulary, self.hidden),
        }
        whole = shapes.get(part, (self.hidden,))
        return whole[:1] if name.endswith(".bias") else whole


def dimensions_of(file: GgufFile) -> Dimensions:
    """The sizes. Raises SlmflowError for one that is missing, zero, or beyond any model's."""
    prefix = file.architecture
    heads = _positive(file, f"{prefix}.attention.head_count")
    hidden = _positive(file, f"{prefix}.embedding_length")
    head = _positive(file, f"{prefix}.attention.key_length", hidden // heads)
    context = _positive(file, f"{prefix}.context_length")
    if head % 2 or file.integer(f"{prefix}.attention.value_length", head) != head:
        raise SlmflowError(
            f"{file.path.name}: heads of {head} for keys must be even and as wide as those for values"
        )
    if context * head > MOST_ANGLES:
        raise SlmflowError(
            f"{file.path.name}: {prefix}.context_length of {context} with heads of {head} is beyond any model"
        )
    return Dimensions(
        layers=_positive(file, f"{prefix}.block_count", most=MOST_LAYERS),
        hidden=hidden,
        feed_forward=_positive(file, f"{prefix}.feed_forward_length"),
        heads=heads,
        kv_heads=_positive(file, f"{prefix}.attention.head_count_kv", heads),
        head=head,
        context=context,
        vocabulary=len(file.texts("tokenizer.ggml.tokens")),
    )


def _positive(file: GgufFile, key: str, default: int | None = None, most: int = 1 << 28) -> int:
    value = file.integer(key, default)
    if not 1 <= value <= most:
        raise SlmflowError(f"{file.path.name}: {key} is {value}, and should be from 1 to {most}")
    return value
