"""The logged pipeline under measurement, as MLflow loads it: in the dtype of its source, on every machine."""

from __future__ import annotations

import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.quality.candidates import KV_BYTES, Branches, Chat, in_common, plain_text
from slmflow.quality.fidelity import log_softmax
from slmflow.quality.passes import Passes

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 32
"""Texts taken together, at most: more add little to 306 tokens/s, and 16 give 210 (docs/evaluate.md)."""


class PipelineCandidate:
    """The transformers pipeline as MLflow loads it."""

    def __init__(self, uri: str) -> None:
        import mlflow
        import torch

        torch.set_num_threads(physical_cores())
        self._pipeline: Any = mlflow.transformers.load_model(uri)
        self._model: Any = self._pipeline.model
        self.context_length: int = self._model.config.get_text_config().max_position_embeddings

    def encode(self, text: str) -> list[int]:
        """Ids by the logged tokenizer."""
        return list(self._pipeline.tokenizer(text)["input_ids"])

    def prompt_ids(self, chat: Chat) -> list[int]:
        """By the logged tokenizer's template, where it has one."""
        tokenizer = self._pipeline.tokenizer
        if tokenizer.chat_template is None:
            return self.encode(plain_text(chat))
        return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def rows(self, length: int) -> int:
        """As many as keys and values may have memory for, in the model's dtype."""
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        position = 2 * config.num_hidden_layers * heads * size * self._model.dtype.itemsize
        return max(1, min(ROWS, KV_BYTES // (position * length)))

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """One forward pass in the dtype that the model is logged with."""
        return log_softmax(Passes(self._model).every([ids])[0])

    def decode_logprobs(self, ids: list[int], start: int) -> NDArray[np.float32]:
        """A pass over what comes before, then a token a pass with the keys and values kept."""
        from tqdm import tqdm

        passes = Passes(self._model)
        rows = [passes.last([ids[: start + 1]])[0]]
        rows += [passes.last([[token]])[0] for token in tqdm(ids[start + 1 :], "  decoding")]
        return log_softmax(np.stack(rows))

    def branch_logprobs(self, asked: list[Branches]) -> list[list[NDArray[np.float64]]]:
        """Contexts of one length in one pass, and all that follows them in another: keys and values are kept.

        So no context is padded.
        """
        order = sorted(range(len(asked)), key=lambda at: len(asked[at][0]))
        found: dict[int, list[NDArray[np.float64]]] = {}
        for length, run in groupby(order, key=lambda at: len(asked[at][0])):
            group: list[int] = []
            for at in run:
                longest = length + max(len(ids) for other in (*group, at) for ids in asked[other][1])
                if sum(len(asked[other][1]) for other in (*group, at)) > self.rows(longest) and group:
                    found |= self._branches(asked, group)
                    group = []
                group.append(at)
            found |= self._branches(asked, group)
        return [found[at] for at in range(len(asked))]

    def _branches(self, asked: list[Branches], group: list[int]) -> dict[int, list[NDArray[np.float64]]]:
        """Of contexts of one length."""
        passes = Passes(self._model)
        first = passes.last([asked[at][0] for at in group])
        owners = [row for row, at in enumerate(group) for _ in asked[at][1]]
        texts = [ids for at in group for ids in asked[at][1]]
        later = passes.branches(owners, [ids[:-1] for ids in texts])
        logs = []
        for owner, ids, rows in zip(owners, texts, later, strict=True):
            every = log_softmax(np.concatenate([first[owner][None], rows]))
            logs.append(every[np.arange(len(ids)), ids].astype(np.float64))
        following = iter(logs)
        return {at: [next(following) for _ in asked[at][1]] for at in group}

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """By bare passes: `generate` would keep the end of text out of an answer of fixed length."""
        passes = Passes(self._model)
        answer = [int(passes.last([ids])[0].argmax())]
        while len(answer) < new_tokens:
            answer.append(int(passes.last([answer[-1:]])[0].argmax()))
        return answer

    def answers(self, prompts: list[list[int]], new_tokens: list[int]) -> list[str]:
        """By bare passes, without the settings of its own that the model may come with.

        Prompts are padded on the left, after what all of them begin with. Rows that have ended leave.
        """
        ends = self._pipeline.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        passes = Passes(self._model)
        longest = max(len(ids) + most for ids, most in zip(prompts, new_tokens, strict=True))
        common = in_common(prompts) if passes.shares(longest) else 0
        said: list[list[int]] = [[] for _ in prompts]
        going, over = list(range(len(prompts))), set[int]()
        logits = passes.prompts(prompts, common)
        while going:
            for at, token in zip(going, logits.argmax(axis=-1).tolist(), strict=True):
                ended = token in ends
                said[at] += [] if ended else [token]
                if ended or len(said[at]) == new_tokens[at]:
                    over.add(at)
            going = [at for at in going if at not in over]
            if going:
                logits = passes.next(going, [said[at][-1] for at in going])
        decode = self._pipeline.tokenizer.decode
        return [str(decode(ids, skip_special_tokens=True)) for ids in said]

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Through `generate`, which hands each token to a streamer (the prompt first)."""
        import torch

        clock = _Clock()
        inputs = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            self._model.generate(
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
