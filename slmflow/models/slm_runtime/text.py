"""From tokens to text while they come: whole characters, and stop texts across token borders."""

from __future__ import annotations

from collections.abc import Sequence

from .tokenizer import TextTokenizer

WINDOW = 8
"""Tokens before the new ones that are decoded with them, at least: enough for joins like a leading space."""


class TextStream:
    """The text of one answer. What may still become a stop text, or half a character, is held back."""

    def __init__(self, tokenizer: TextTokenizer, stops: Sequence[str], *, keep_special: bool = False) -> None:
        self._tokenizer, self._stops, self._keep_special = tokenizer, stops, keep_special
        self._ids: list[int] = []
        self._start = self._read = 0
        self._before = self._held = ""
        self.stopped = False
        """A stop text came; it and what follows are not part of the answer."""

    def push(self, token: int) -> str:
        """Text that is certain now."""
        self._ids.append(token)
        now = self._decode(self._ids[self._start :])
        if now.endswith("\ufffd") and len(self._ids) - self._read < WINDOW:
            return ""
        self._held += now[len(self._before) :]
        # The next text is told from what is new in a window that begins before it.
        self._read, self._before = len(self._ids), now
        if self._read - self._start > 4 * WINDOW:
            self._start = self._read - WINDOW
            self._before = self._decode(self._ids[self._start :])
        return self._certain()

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        if self.stopped:
            return ""
        held, self._held = self._held + self._decode(self._ids[self._start :])[len(self._before) :], ""
        self._read = len(self._ids)
        return self._cut(held)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, keep_special=self._keep_special)

    def _certain(self) -> str:
        text = self._cut(self._held)
        if self.stopped:
            self._held = ""
            return text
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _cut(self, text: str) -> str:
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.stopped = bool(found)
        return text[: min(found)] if found else text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next(
        (size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0
    )
