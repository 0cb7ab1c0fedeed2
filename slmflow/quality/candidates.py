"""The two packaged models behind one face, so that the same measures judge both as they ship."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
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

    def continuation_logprobs(
        self, context: list[int], continuations: list[list[int]]
    ) -> list[NDArray[np.float32]]:
        """Natural log-probabilities before each token of each continuation of one context.

        Shapes (len(continuation), vocabulary). The context is read once; neither is empty.
        """

    def greedy(self, ids: list[int], new_tokens: int) -> list[int]:
        """The most probable answer of exactly `new_tokens` tokens, the end of text ignored."""

    def answers(self, chats: list[Chat], new_tokens: int) -> list[str]:
        """The greedy answer to each chat, of at most `new_tokens` tokens; the same for the same chats."""

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Seconds from the call to each new token of a greedy answer of exactly `new_tokens`."""


def plain_text(chat: Chat) -> str:
    """A chat as a text that a base model goes on with."""
    names = {"user": "Question", "assistant": "Answer"}
    turns = [f"{names.get(said['role'], said['role'])}: {said['content']}" for said in chat]
    return "\n".join([*turns, "Answer:"])


def load(candidate: str, uri: str) -> Candidate:
    """The candidate by its kind, `onnx` or `pipeline`."""
    if candidate == "onnx":
        from slmflow.quality.onnx_candidate import OnnxCandidate

        return OnnxCandidate(uri)
    from slmflow.quality.pipeline_candidate import PipelineCandidate

    return PipelineCandidate(uri)
