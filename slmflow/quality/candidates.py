"""The two packaged models behind one face, so that the same measures judge both as they ship."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Chat = list[dict[str, str]]
"""Messages with `role` and `content`."""
Branches = tuple[list[int], list[list[int]]]
"""Ids of a context, and those of texts that may follow it; none of them empty."""
KV_BYTES = 512_000_000
"""Keys and values of texts that are taken together, at most."""
SHARED = 16
"""Tokens that prompts must have in common to be read once for all of them."""


class Candidate(Protocol):
    """A packaged model under measurement. One process holds one."""

    context_length: int
    """Tokens of prompt and answer together, at most."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text by the packaged tokenizer."""

    def prompt_ids(self, chat: Chat) -> list[int]:
        """Ids of a chat by the packaged template; of a plain text where there is no template."""

    def rows(self, length: int) -> int:
        """How many texts of so many tokens it takes together: the same on every machine."""

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """Natural log-probabilities after each token, shape (len(ids), vocabulary)."""

    def decode_logprobs(self, ids: list[int], start: int) -> NDArray[np.float32]:
        """As `logprobs`, from position `start` on, computed one token a pass as decoding does."""

    def branch_logprobs(self, asked: list[Branches]) -> list[list[NDArray[np.float64]]]:
        """Natural log-probability of each token of each text after its context; each context is read once."""

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """The most probable answer of exactly `new_tokens` tokens, the end of text ignored."""

    def answers(self, prompts: list[list[int]], new_tokens: list[int]) -> list[str]:
        """The greedy answer to each prompt, of at most so many tokens: the same for the same prompts.

        They are taken together, and what all prompts begin with is read once.
        """

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Seconds from the call to each new token of a greedy answer of exactly `new_tokens`."""


def plain_text(chat: Chat) -> str:
    """A chat as a text that a base model goes on with."""
    names = {"user": "Question", "assistant": "Answer"}
    turns = [f"{names.get(said['role'], said['role'])}: {said['content']}" for said in chat]
    return "\n".join([*turns, "Answer:"])


def in_common(prompts: list[list[int]]) -> int:
    """Tokens that all prompts begin with, less than any of them has; 0 where they are not worth sharing."""
    if len(prompts) < 2:
        return 0
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    same = next((at for at in range(shortest) if any(ids[at] != first[at] for ids in prompts)), shortest)
    return same if same >= SHARED else 0


def load(candidate: str, uri: str) -> Candidate:
    """The candidate by its kind, `onnx` or `pipeline`."""
    if candidate == "onnx":
        from slmflow.quality.onnx_candidate import OnnxCandidate

        return OnnxCandidate(uri)
    from slmflow.quality.pipeline_candidate import PipelineCandidate

    return PipelineCandidate(uri)
