"""ONNX Runtime's generate() API over one model folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from .cores import physical_cores

SCORING_CHUNK = 128
"""Tokens of one forward pass when scoring: bounds the logits to 128 x vocabulary."""


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    """Go on to max_tokens past the end of text: for measurements."""


class GenerateEngine:
    """One loaded model; every call has parameters of its own and holds the lock while it runs.

    The library says of itself 'This API is not thread safe', and MLflow calls `predict` from many threads.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        config = og.Config(str(folder))
        session = {"intra_op_num_threads": threads or physical_cores(), "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        self._lock = threading.Lock()
        description = json.loads((folder / "genai_config.json").read_text())["model"]
        self.context_length = int(description["context_length"])
        self.vocabulary = int(description["vocab_size"])
        eos = description["eos_token_id"]
        self.eos_ids = frozenset(eos if isinstance(eos, list) else [eos])

    def generate(self, ids: list[int], sampling: Sampling) -> Iterator[int]:
        """New token ids, one by one, without the end-of-text token.

        Memory for keys and values is taken for prompt plus max_tokens only: the library's default is the
        whole context. Raises ValueError when prompt and answer cannot fit into the context.
        """
        length = self.check_length(ids, sampling.max_tokens)
        with self._lock:
            generator = self._generator(length, sampling)
            generator.append_tokens(ids)
            for _ in range(sampling.max_tokens):
                generator.generate_next_token()
                token = int(generator.get_next_tokens()[0])
                if token in self.eos_ids and not sampling.ignore_eos:
                    return
                yield token
                if generator.is_done():
                    return

    def logits(self, ids: list[int], chunk: int = SCORING_CHUNK) -> NDArray[np.float32]:
        """The logits after each token of `ids`, shape (len(ids), vocabulary).

        A chunk of 1 takes the path of decoding, whose quantised kernels differ from those of prefill.
        """
        length = self.check_length(ids, 0)
        chunks = []
        with self._lock:
            generator = self._generator(length, Sampling())
            for start in range(0, len(ids), chunk):
                generator.append_tokens(ids[start : start + chunk])
                chunks.append(np.array(generator.get_output("logits")[0], dtype=np.float32))
        return np.concatenate(chunks)

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

    def _generator(self, length: int, sampling: Sampling) -> og.Generator:
        params = og.GeneratorParams(self._model)
        # A top_p of 0 leaves the first token only; the library takes it for 'no limit'.
        sampled = sampling.temperature > 0 and sampling.top_p > 0
        options: dict[str, float | int | bool] = {"max_length": length, "do_sample": sampled}
        if sampled:
            # top_k is switched off: the library's default of 50 would cut what top_p is to judge.
            options |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": self.vocabulary,
            }
        if sampling.ignore_eos:
            options["min_length"] = length
        if sampling.seed is not None:
            options["random_seed"] = sampling.seed & 0x7FFFFFFF  # its integers have 32 bits
        params.set_search_options(**options)
        return og.Generator(self._model, params)
