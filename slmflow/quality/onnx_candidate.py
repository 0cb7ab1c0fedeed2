"""The packaged ONNX model under measurement: the pyfunc model, its packaged class unwrapped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.models.slm_runtime.engine import SCORING_CHUNK
from slmflow.quality.candidates import Chat, plain_text
from slmflow.quality.fidelity import log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.models.slm_runtime.engine import Engine


class OnnxCandidate:
    """The pyfunc model, its packaged class unwrapped."""

    def __init__(self, uri: str) -> None:
        import mlflow

        self._loaded = mlflow.pyfunc.load_model(uri, model_config={"tracing": False})
        self._model = self._loaded.unwrap_python_model()
        self.context_length: int = self._model.runtime.engine.description.context_length

    def encode(self, text: str) -> list[int]:
        """Ids by the packaged tokenizer."""
        ids: list[int] = self._model.runtime.tokenizer.encode(text)
        return ids

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """What the packaged class itself computes."""
        logs: NDArray[np.float32] = self._model.logprobs(ids)
        return logs

    def decode_logprobs(self, ids: list[int], start: int) -> NDArray[np.float32]:
        """The packaged class itself, a token a pass."""
        logs: NDArray[np.float32] = self._model.logprobs(ids, 1)
        return logs[start:]

    def continuation_logprobs(
        self, context: list[int], continuations: list[list[int]]
    ) -> list[NDArray[np.float32]]:
        """The packaged engine prefills the context, and decodes the continuations after it."""
        found = self._model.runtime.scheduler.call(partial(_read_on, context, continuations))
        return [log_softmax(np.stack(logits)) for logits in found]

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """Through the packaged engine."""
        return list(self._model.generate_exactly(ids, new_tokens))

    def answers(self, chats: list[Chat], new_tokens: int) -> list[str]:
        """Through `predict`, one by one; without a chat template the chats become prompts."""
        asked: dict[str, Any] = {"max_tokens": new_tokens, "temperature": 0.0, "deterministic": True}
        if self._model.runtime.tokenizer.chat_template is None:
            return [self._loaded.predict({"prompt": plain_text(chat), **asked})[0] for chat in chats]
        found = [self._loaded.predict({"messages": chat, **asked})[0] for chat in chats]
        return [str(one["choices"][0]["message"]["content"]) for one in found]

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Through the packaged engine, end-of-text ignored so that every run has the same length."""
        times: list[float] = self._model.token_times(ids, new_tokens)
        return times


def _read_on(
    context: list[int], continuations: list[list[int]], engine: Engine
) -> list[list[NDArray[np.float32]]]:
    """The logits before each token of each continuation; together where the engine can."""
    longest = len(context) + max(map(len, continuations))
    cache = engine.open(longest)
    for start in range(0, len(context), SCORING_CHUNK):
        first = engine.prefill(cache, context[start : start + SCORING_CHUNK])
    found = [[first] for _ in continuations]
    every = range(len(continuations))
    for group in [every] if engine.shares else [[at] for at in every]:
        branches = {at: engine.reuse(cache, len(context), longest) for at in group}
        for position in range(max(len(continuations[at]) for at in group) - 1):
            going = [at for at in group if position < len(continuations[at]) - 1]
            tokens = [continuations[at][position] for at in going]
            logits = engine.decode([branches[at] for at in going], tokens)
            for at, row in zip(going, logits, strict=True):
                found[at].append(row)
        for branch in branches.values():
            if branch is not cache:
                engine.close(branch)
    engine.close(cache)
    return found
