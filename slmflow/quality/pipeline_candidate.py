"""The logged pipeline under measurement, as MLflow loads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.quality.candidates import Chat, plain_text
from slmflow.quality.fidelity import log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray


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

    def continuation_logprobs(
        self, context: list[int], continuations: list[list[int]]
    ) -> list[NDArray[np.float32]]:
        """A pass over the context, and one over all continuations as a batch."""
        passes = _Passes(self._pipeline.model)
        first = passes.after(context)
        later = passes.after_each([tokens[:-1] for tokens in continuations])
        return [log_softmax(np.stack([first, *rows])) for rows in later]

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
        self._model = model
        self._past: Any = None

    def after(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits after the last of the next ids."""
        import torch

        with torch.inference_mode():
            out = self._model(torch.tensor([ids]), past_key_values=self._past, use_cache=True)
        self._past = out.past_key_values
        logits: NDArray[np.float32] = out.logits[0, -1].float().numpy()
        return logits

    def after_each(self, branches: list[list[int]]) -> list[list[NDArray[np.float32]]]:
        """The logits after each token of each branch that the text takes; nothing can follow."""
        import torch

        sizes = [len(branch) for branch in branches]
        longest = max(sizes)
        if not longest:
            return [[] for _ in branches]
        ids = torch.tensor([branch + [0] * (longest - len(branch)) for branch in branches])
        known = self._past.get_seq_length()
        mask = torch.tensor([[1] * (known + size) + [0] * (longest - size) for size in sizes])
        self._past.batch_repeat_interleave(len(branches))
        with torch.inference_mode():
            logits = self._model(ids, attention_mask=mask, past_key_values=self._past, use_cache=True).logits
        return [list(rows[:size].float().numpy()) for rows, size in zip(logits, sizes, strict=True)]


class _Clock:
    """A transformers streamer that notes when it is called."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._started = time.perf_counter()

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter() - self._started)

    def end(self) -> None:
        """Nothing is held back."""
