"""Answers that obey a JSON schema: which tokens may come next, by llguidance."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray


class Grammar:
    """One answer's way through a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        self._matcher = matcher
        self._mask = llguidance.numpy.allocate_token_bitmask(1, vocabulary)
        self._vocabulary = vocabulary

    def fresh(self) -> Grammar:
        """Another way through the same grammar, from where this one is; cheaper than compiling anew."""
        return Grammar(self._matcher.deep_copy(), self._vocabulary)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come now; the end of text where the answer may end."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask)
        bits = np.unpackbits(self._mask[0].view(np.uint8), bitorder="little")
        return bits[: self._vocabulary].astype(np.bool_)

    def take(self, token: int) -> None:
        """Go on; raises ValueError for a token that was not allowed."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} does not fit the grammar: {self._matcher.get_error()}")

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())


class Grammars:
    """Makes grammars for one tokenizer, which llguidance reads once, at first use."""

    def __init__(self, folder: Path, vocabulary: int, eos_ids: frozenset[int]) -> None:
        self._folder, self._vocabulary, self._eos_ids = folder, vocabulary, eos_ids

    def of_schema(self, schema: dict[str, Any] | None) -> Grammar:
        """A grammar of a JSON schema; None is any JSON object.

        Raises ValueError with llguidance's words for a schema that it cannot obey.
        """
        text = json.dumps({"type": "object"} if schema is None else schema)
        try:
            return Grammar(llguidance.LLMatcher(self._tokenizer(), _compiled(text)), self._vocabulary)
        except ValueError as error:
            raise ValueError(" ".join(str(error).split())[:300]) from None

    @lru_cache(maxsize=1)  # noqa: B019  (lives as long as the model)
    def _tokenizer(self) -> llguidance.LLTokenizer:
        path = str(self._folder / "tokenizer.json")
        return llguidance.LLTokenizer(path, n_vocab=self._vocabulary, eos_token=sorted(self._eos_ids))


@lru_cache(maxsize=64)
def _compiled(schema: str) -> str:
    # Compact output: white space between tokens is where small models get lost.
    grammar: str = llguidance.LLMatcher.grammar_from_json_schema(
        schema, defaults={"whitespace_flexible": False}
    )
    return grammar
