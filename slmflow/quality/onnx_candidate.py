"""The packaged ONNX model under measurement: the pyfunc model, its packaged class unwrapped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.models.slm_runtime.engine import SCORING_CHUNK
from slmflow.quality.candidates import KV_BYTES, Branches, Chat, in_common, plain_text
from slmflow.quality.fidelity import log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.models.slm_runtime.engine import Engine

ROWS = 16
"""Rows that an engine decodes together, at most, as the package's own default has it."""


class OnnxCandidate:
    """The pyfunc model, its packaged class unwrapped."""

    def __init__(self, uri: str) -> None:
        import mlflow

        self._loaded = mlflow.pyfunc.load_model(uri, model_config={"tracing": False})
        self._model = self._loaded.unwrap_python_model()
        self._engine: Engine = self._model.runtime.engine
        self.context_length: int = self._engine.description.context_length

    def encode(self, text: str) -> list[int]:
        """Ids by the packaged tokenizer."""
        ids: list[int] = self._model.runtime.tokenizer.encode(text)
        return ids

    def prompt_ids(self, chat: Chat) -> list[int]:
        """As the packaged class reads a request."""
        asked: dict[str, Any] = {"messages": chat}
        if self._model.runtime.tokenizer.chat_template is None:
            asked = {"prompt": plain_text(chat)}
        ids: list[int] = self._model.runtime.read({**asked, "max_tokens": 1}).ids
        return ids

    def rows(self, length: int) -> int:
        """As many as memory allows for an engine that decodes rows together; else one."""
        if not self._engine.shares:
            return 1
        return max(1, min(ROWS, KV_BYTES // (self._engine.description.position_bytes * length)))

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """What the packaged class itself computes."""
        logs: NDArray[np.float32] = self._model.logprobs(ids)
        return logs

    def decode_logprobs(self, ids: list[int], start: int) -> NDArray[np.float32]:
        """The packaged engine reads what comes before, and decodes the rest."""
        rows: list[NDArray[np.float32]] = self._model.runtime.scheduler.call(partial(_decode_on, ids, start))
        return log_softmax(np.stack(rows))

    def branch_logprobs(self, asked: list[Branches]) -> list[list[NDArray[np.float64]]]:
        """The packaged engine reads each context, and decodes the texts after it."""
        return [self._model.runtime.scheduler.call(partial(_read_on, *one)) for one in asked]

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """Through the packaged engine."""
        return list(self._model.generate_exactly(ids, new_tokens))

    def answers(self, prompts: list[list[int]], new_tokens: list[int]) -> list[str]:
        """By the packaged engine, in rows that join and leave as in its scheduler, at fixed places."""
        found = self._model.runtime.scheduler.call(partial(_answer, prompts, new_tokens))
        return [str(self._model.runtime.tokenizer.decode(ids)) for ids in found]

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Through the packaged engine, end-of-text ignored so that every run has the same length."""
        times: list[float] = self._model.token_times(ids, new_tokens)
        return times


def _read(engine: Engine, cache: Any, ids: list[int]) -> NDArray[np.float32]:
    """The logits after the last of the ids."""
    for start in range(0, len(ids), SCORING_CHUNK):
        logits = engine.prefill(cache, ids[start : start + SCORING_CHUNK])
    return logits


def _decode_on(ids: list[int], start: int, engine: Engine) -> list[NDArray[np.float32]]:
    """The logits after each token from `start` on, each but the first by a pass of its own."""
    from tqdm import tqdm

    cache = engine.open(len(ids))
    rows = [_read(engine, cache, ids[: start + 1])]
    rows += [np.array(engine.decode([cache], [token])[0]) for token in tqdm(ids[start + 1 :], "  decoding")]
    engine.close(cache)
    return rows


def _read_on(context: list[int], continuations: list[list[int]], engine: Engine) -> list[NDArray[np.float64]]:
    """The log-probabilities of each continuation's tokens; together where the engine can."""
    longest = len(context) + max(map(len, continuations))
    cache = engine.open(longest)
    first = _token_logs(_read(engine, cache, context)[None], [tokens[0] for tokens in continuations])
    found = [[log] for log in first]
    every = range(len(continuations))
    for group in [every] if engine.shares else [[at] for at in every]:
        branches = {at: _branch(engine, cache, context, longest) for at in group}
        for position in range(max(len(continuations[at]) for at in group) - 1):
            going = [at for at in group if position < len(continuations[at]) - 1]
            tokens = [continuations[at][position] for at in going]
            logits = engine.decode([branches[at] for at in going], tokens)
            following = [continuations[at][position + 1] for at in going]
            for at, log in zip(going, _token_logs(logits, following), strict=True):
                found[at].append(log)
        for branch in branches.values():
            if branch is not cache:
                engine.close(branch)
    engine.close(cache)
    return [np.array(logs, dtype=np.float64) for logs in found]


def _branch(engine: Engine, cache: Any, context: list[int], length: int) -> Any:
    """A cache that holds the context: the one that read it, a copy, or one that reads it again."""
    if (taken := engine.reuse(cache, len(context), length)) is None:
        _read(engine, taken := engine.open(length), context)
    return taken


def _token_logs(logits: NDArray[np.float32], tokens: list[int]) -> list[float]:
    """The log-probability of a token by each row of logits; by the same row where there is one."""
    logs = log_softmax(logits)
    rows = np.arange(len(tokens)) if len(logs) == len(tokens) else np.zeros(len(tokens), dtype=int)
    return [float(log) for log in logs[rows, tokens]]


def _answer(prompts: list[list[int]], new_tokens: list[int], engine: Engine) -> list[list[int]]:
    """The most probable tokens after each prompt, to the end of text or so many; all decoded together."""
    common = in_common(prompts) if engine.shares else 0
    base = engine.open(common) if common else None
    if common:
        _read(engine, base, prompts[0][:common])
    said: list[list[int]] = [[] for _ in prompts]
    caches: dict[int, Any] = {}
    for at, (ids, most) in enumerate(zip(prompts, new_tokens, strict=True)):
        length = len(ids) + most
        caches[at] = engine.reuse(base, common, length) if common else engine.open(length)
        _take(engine, said[at], _read(engine, caches[at], ids[common:]), caches, at, most)
    if base is not None:
        engine.close(base)
    while going := list(caches):
        logits = engine.decode([caches[at] for at in going], [said[at][-1] for at in going])
        for at, row in zip(going, logits, strict=True):
            _take(engine, said[at], row, caches, at, new_tokens[at])
    return said


def _take(
    engine: Engine, said: list[int], logits: NDArray[np.float32], caches: dict[int, Any], at: int, most: int
) -> None:
    """Add the most probable token; a row that has ended gives its memory back."""
    token = int(logits.argmax())
    if token not in engine.description.eos_ids:
        said.append(token)
        if len(said) < most:
            return
    engine.close(caches.pop(at))
