"""The two packaged models behind one face, so that the same measures judge both as they ship."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.quality.fidelity import log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray


Chat = list[dict[str, str]]
"""Messages with `role` and `content`."""


class Candidate(Protocol):
    """A packaged model under measurement. One process holds one."""

    context_length: int
    """Tokens of prompt and answer together, at most."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text by the packaged tokenizer."""

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """Natural log-probabilities after each token, shape (len(ids), vocabulary)."""

    def decode_logprobs(self, ids: list[int], start: int) -> NDArray[np.float32]:
        """As `logprobs`, from position `start` on, computed one token a pass as decoding does."""

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """The most probable answer of exactly `new_tokens` tokens, the end of text ignored."""

    def answers(self, chats: list[Chat], new_tokens: int) -> list[str]:
        """The greedy answer to each chat, of at most `new_tokens` tokens; the same for the same chats."""

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Seconds from the call to each new token of a greedy answer of exactly `new_tokens`."""


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

    def decode_logprobs(self, ids: list[int], start: int) -> NDArray[np.float32]:
        """A pass over what comes before, then a token a pass with the keys and values kept."""
        passes = _Passes(self._pipeline.model)
        rows = [passes.after(ids[: start + 1]), *(passes.after([token]) for token in ids[start + 1 :])]
        return log_softmax(np.stack(rows))

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """By bare passes: `generate` would keep the end of text out of an answer of fixed length."""
        passes = _Passes(self._pipeline.model)
        answer = [int(passes.after(ids).argmax())]
        while len(answer) < new_tokens:
            answer.append(int(passes.after(answer[-1:]).argmax()))
        return answer

    def answers(self, chats: list[Chat], new_tokens: int) -> list[str]:
        """All in one batch by `generate`, without the settings of its own that the model may come with."""
        import torch
        from transformers import GenerationConfig

        tokenizer, model = self._pipeline.tokenizer, self._pipeline.model
        if tokenizer.chat_template is None:
            prompts = [self.encode(plain_text(chat)) for chat in chats]
        else:
            prompts = [
                list(tokenizer.apply_chat_template(chat, add_generation_prompt=True)) for chat in chats
            ]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        settings = GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=self._pipeline.generation_config.eos_token_id,
            pad_token_id=0,
        )
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=mask, generation_config=settings)[:, longest:]
        ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
        texts = []
        for row in made.tolist():
            end = next((at for at, token in enumerate(row) if token in ends), len(row))
            texts.append(str(tokenizer.decode(row[:end], skip_special_tokens=True)))
        return texts

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


class _Passes:
    """Passes over a growing text, keys and values kept between them."""

    def __init__(self, model: Any) -> None:
        self._model, self._past = model, None

    def after(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits after the last of the next ids."""
        import torch

        with torch.inference_mode():
            out = self._model(torch.tensor([ids]), past_key_values=self._past, use_cache=True)
        self._past = out.past_key_values
        logits: NDArray[np.float32] = out.logits[0, -1].float().numpy()
        return logits


class _Clock:
    """A transformers streamer that notes when it is called."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._started = time.perf_counter()

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter() - self._started)

    def end(self) -> None:
        """Nothing is held back."""


def plain_text(chat: Chat) -> str:
    """A chat as a text that a base model goes on with."""
    names = {"user": "Question", "assistant": "Answer"}
    turns = [f"{names.get(said['role'], said['role'])}: {said['content']}" for said in chat]
    return "\n".join([*turns, "Answer:"])


def load(candidate: str, uri: str) -> Candidate:
    """The candidate by its kind, `onnx` or `pipeline`."""
    return OnnxCandidate(uri) if candidate == "onnx" else PipelineCandidate(uri)
