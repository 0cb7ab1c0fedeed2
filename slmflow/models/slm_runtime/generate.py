"""The engine `generate`: ONNX Runtime GenAI's generate() API, one Generator a sequence.

The library says of itself 'This API is not thread safe', holds Python's lock while it computes, and has
search parameters that a request must not share: each sequence gets a Generator of its own, and tokens are
drawn outside of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from .cores import physical_cores
from .engine import SCORING_CHUNK, describe

STEP = 256
"""Positions that a Generator is sized in: it cannot be lengthened later."""
STATES = {"past_conv_names", "past_recurrent_names"}
"""Inputs of genai_config.json that are no keys and values."""


@dataclass
class Sequence:
    """A Generator and how far it is."""

    generator: og.Generator
    length: int
    tokens: int = 0

    @property
    def held(self) -> int:
        """All of its length, from the start."""
        return self.length


class GenerateEngine:
    """Sequences take turns; nothing is computed together."""

    name = "generate"
    shares = False

    def __init__(self, folder: Path, threads: int = 0) -> None:
        config = og.Config(str(folder))
        session = {"intra_op_num_threads": threads or physical_cores(), "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        self._positions = 0
        self.description = describe(folder)
        # States of convolutions and recurrent layers hold no positions to turn back to.
        self.turns_back = not STATES & self.description.decoder["inputs"].keys()

    def open(self, length: int) -> Sequence:
        """Memory is taken at once: for `length`, and up to STEP more for the next turn of a chat.

        The library's own default is the whole context.
        """
        length = min(-(-length // STEP) * STEP, self.description.context_length)
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=length, do_sample=False)
        self._positions += length
        return Sequence(og.Generator(self._model, params), length)

    def reuse(self, cache: Sequence, tokens: int, length: int) -> Sequence | None:
        """The other sequence itself, turned back: a Generator cannot be copied, nor lengthened."""
        if length > cache.length or (tokens != cache.tokens and not self.turns_back):
            return None
        if tokens != cache.tokens:
            cache.generator.rewind_to(tokens)
            cache.tokens = tokens
        return cache

    def prefill(self, cache: Sequence, ids: list[int]) -> NDArray[np.float32]:
        """Append to one Generator."""
        cache.generator.append_tokens(ids)
        cache.tokens += len(ids)
        return np.array(cache.generator.get_logits()[0, -1], dtype=np.float32)

    def decode(self, caches: list[Sequence], tokens: list[int]) -> NDArray[np.float32]:
        """One after the other."""
        return np.stack([self.prefill(cache, [token]) for cache, token in zip(caches, tokens, strict=True)])

    def park(self, cache: Sequence) -> None:
        """Nothing to do: it is in nobody's way."""

    def close(self, cache: Sequence) -> None:
        """Drop the Generator."""
        self._positions -= cache.length
        del cache.generator

    def score(self, ids: list[int], chunk: int = SCORING_CHUNK) -> NDArray[np.float32]:
        """Every position's logits, which the library keeps as an output of each pass."""
        cache = self.open(self.description.check_length(ids, 0))
        chunks = []
        for start in range(0, len(ids), chunk):
            cache.generator.append_tokens(ids[start : start + chunk])
            chunks.append(np.array(cache.generator.get_output("logits")[0], dtype=np.float32))
        self.close(cache)
        return np.concatenate(chunks)

    def kv_bytes(self) -> int:
        """What was asked for; the library does not tell."""
        return self._positions * self.description.position_bytes
