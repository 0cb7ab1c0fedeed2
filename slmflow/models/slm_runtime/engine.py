"""What a model folder can do, whichever runtime does it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SCORING_CHUNK = 128
"""Tokens of one forward pass when scoring: bounds the logits to 128 x vocabulary."""

ENGINES = ("auto", "generate", "continuous")


@dataclass(frozen=True)
class Description:
    """What genai_config.json says of the model."""

    context_length: int
    vocabulary: int
    eos_ids: frozenset[int]
    layers: int
    heads: int
    """Key/value heads."""
    head_size: int
    graph: str
    decoder: dict[str, Any]
    position_bytes: int
    """Bytes of the keys and values of one position, in fp32."""
    row_bytes: int = 0
    """Bytes of what a sequence holds besides, whatever its length."""

    def check_length(self, ids: list[int], new: int) -> int:
        """Tokens of prompt and answer together; raises ValueError when they exceed the context."""
        if not ids:
            raise ValueError("the prompt is empty")
        if len(ids) + new > self.context_length:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and max_tokens is {new}: together more than the "
                f"model's context of {self.context_length}"
            )
        return len(ids) + new


def describe(folder: Path) -> Description:
    """Read a folder's genai_config.json."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    decoder, eos = model["decoder"], model["eos_token_id"]
    layers, heads, size = (
        decoder[name] for name in ("num_hidden_layers", "num_key_value_heads", "head_size")
    )
    kinds = decoder.get("layer_types") or ["full_attention"] * layers
    return Description(
        context_length=int(model["context_length"]),
        vocabulary=int(model["vocab_size"]),
        eos_ids=frozenset(eos if isinstance(eos, list) else [eos]),
        layers=int(layers),
        heads=int(heads),
        head_size=int(size),
        graph=str(decoder["filename"]),
        decoder=decoder,
        position_bytes=2
        * 4
        * sum("attention" in kind and "linear" not in kind for kind in kinds)
        * heads
        * size,
    )


class Cache(Protocol):
    """The keys and values of one sequence, in the engine that made it."""

    @property
    def tokens(self) -> int:
        """Positions that are filled."""

    @property
    def held(self) -> int:
        """Positions that memory is taken for."""


class Engine(Protocol):
    """One loaded model. One thread at a time may call it: the scheduler's."""

    name: str
    description: Description
    shares: bool
    """Whether `reuse` leaves the other cache as it is, so that one prefix serves many."""
    turns_back: bool
    """Whether `reuse` can begin with less than the other cache holds."""

    def open(self, length: int) -> Any:
        """An empty cache for at most `length` positions."""

    def reuse(self, cache: Any, tokens: int, length: int) -> Any | None:
        """A cache of `length` positions that begins with `tokens` of another; None if impossible."""

    def prefill(self, cache: Any, ids: list[int]) -> NDArray[np.float32]:
        """Read more of a prompt; the logits after its last token, shape (vocabulary,)."""

    def decode(self, caches: list[Any], tokens: list[int]) -> NDArray[np.float32]:
        """One more token for each sequence; the logits after it, shape (sequences, vocabulary)."""

    def park(self, cache: Any) -> None:
        """It will not be decoded further, only reused or closed."""

    def close(self, cache: Any) -> None:
        """Give its memory back."""

    def score(self, ids: list[int], chunk: int = SCORING_CHUNK) -> NDArray[np.float32]:
        """The logits after each token of `ids`, shape (len(ids), vocabulary).

        A chunk of 1 takes the path of decoding, whose quantised kernels differ from those of prefill.
        """

    def kv_bytes(self) -> int:
        """Bytes that the caches hold now."""
