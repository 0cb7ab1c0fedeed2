"""The two packaged models behind one face, so that the same measures judge both as they ship."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.quality.fidelity import log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Candidate(Protocol):
    """A packaged model under measurement. One process holds one."""

    context_length: int
    """Tokens of prompt and answer together, at most."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text by the packaged tokenizer."""

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """Natural log-probabilities after each token, shape (len(ids), vocabulary)."""

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Seconds from the call to each new token of a greedy answer of exactly `new_tokens`."""


class OnnxCandidate:
    """The pyfunc model, its packaged class unwrapped."""

    def __init__(self, uri: str) -> None:
        import mlflow

        self._model = mlflow.pyfunc.load_model(uri).unwrap_python_model()
        self.context_length: int = self._model.runtime.engine.description.context_length

    def encode(self, text: str) -> list[int]:
        """Ids by the packaged tokenizer."""
        ids: list[int] = self._model.runtime.tokenizer.encode(text)
        return ids

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """What the packaged class itself computes."""
        logs: NDArray[np.float32] = self._model.logprobs(ids)
        return logs

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Through the packaged engine, end-of-text ignored so that every run has the same length."""
        started = time.perf_counter()
        tokens = self._model.generate_exactly(ids, new_tokens)
        return [time.perf_counter() - started for _ in tokens]


class PipelineCandidate:
    """The transformers pipeline as MLflow loads it."""

    def __init__(self, uri: str) -> None:
        import mlflow
        import torch

        torch.set_num_threads(physical_cores())
        self._pipeline: Any = mlflow.transformers.load_model(uri)
        self.context_length: int = self._pipeline.model.config.max_position_embeddings

    def encode(self, text: str) -> list[int]:
        """Ids by the logged tokenizer."""
        return list(self._pipeline.tokenizer(text)["input_ids"])

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """One forward pass in the dtype that the model is logged with."""
        import torch

        with torch.inference_mode():
            logits = self._pipeline.model(torch.tensor([ids])).logits[0].float().numpy()
        return log_softmax(logits)

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Through `generate`, which hands each token to a streamer (the prompt first)."""
        import torch

        clock = _Clock()
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            self._pipeline.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                do_sample=False,
                streamer=clock,
            )
        return clock.times[1:]


class _Clock:
    """A transformers streamer that notes when it is called."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._started = time.perf_counter()

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter() - self._started)

    def end(self) -> None:
        """Nothing is held back."""


def load(candidate: str, uri: str) -> Candidate:
    """The candidate by its kind, `onnx` or `pipeline`."""
    return OnnxCandidate(uri) if candidate == "onnx" else PipelineCandidate(uri)
