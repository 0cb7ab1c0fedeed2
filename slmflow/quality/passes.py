"""Forward passes of a transformers model over growing texts, their keys and values kept between them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE = 0.75
"""Share of the rows that must still go on: below it the others are dropped, which copies those that do."""
ATTENTION = {"full_attention", "sliding_attention", "attention"}
"""Kinds of layers that keep keys and values alone."""


class Passes:
    """Some texts that grow together. Logits come as float32, whatever dtype the model computes in."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._past: Any = None
        self._mask: Any = None
        self._held: list[int] = []
        """Texts that still have a row, by their places in `prompts`."""
        self._filled: list[int] = []
        """Tokens of each text, without padding."""
        self._read = 0
        """Tokens of each row, padding among them."""

    def shares(self, length: int) -> bool:
        """Whether texts of a length may be padded behind a common beginning.

        A sliding window is told by places, padding among them: it would be shorter than it should be. A state
        that is no keys and values takes padding for text.
        """
        config = self._model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        return (window is None or 2 * length <= window) and kinds <= ATTENTION

    def every(self, texts: list[list[int]]) -> NDArray[np.float32]:
        """The logits after each token of new texts of one length, (texts, tokens, vocabulary)."""
        return self._logits(self._run(texts, None, None, last=False))

    def last(self, texts: list[list[int]]) -> NDArray[np.float32]:
        """The logits after the last token of what each text, all of one length, goes on with."""
        return self._logits(self._run(texts, None, None, last=True))[:, -1]

    def prompts(self, texts: list[list[int]], common: int) -> NDArray[np.float32]:
        """The logits after each of new texts, of whatever lengths, the first `common` tokens read once."""
        import torch

        if common:
            self._run([texts[0][:common]], None, None, last=True)
            self._keep([0] * len(texts))
        sizes = [len(ids) - common for ids in texts]
        longest = max(sizes)
        ids = [[0] * (longest - size) + text[common:] for size, text in zip(sizes, texts, strict=True)]
        self._mask = torch.tensor(
            [[1] * common + [0] * (longest - size) + [1] * size for size in sizes],
            device=self._model.device,
        )
        places = [[0] * (longest - size) + list(range(common, common + size)) for size in sizes]
        self._held, self._filled = list(range(len(texts))), [len(text) for text in texts]
        return self._logits(self._run(ids, self._mask, places, last=True))[:, -1]

    def next(self, going: list[int], tokens: list[int]) -> NDArray[np.float32]:
        """The logits after one token more of each text that goes on, by their places in `prompts`."""
        import torch

        if len(going) < DENSE * len(self._held):
            rows = [self._held.index(text) for text in going]
            self._keep(rows)
            self._mask, self._held = self._mask[rows], list(going)
        said = dict(zip(going, tokens, strict=True))
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._held), 1)], dim=1)
        ids = [[said.get(text, 0)] for text in self._held]
        places = [[self._filled[text]] for text in self._held]
        for text in self._held:
            self._filled[text] += 1
        logits = self._logits(self._run(ids, self._mask, places, last=True))[:, -1]
        return logits[[self._held.index(text) for text in going]]

    def branches(self, owners: list[int], texts: list[list[int]]) -> list[NDArray[np.float32]]:
        """The logits after each token of texts that go on from the rows `owners`; nothing can follow."""
        import torch

        longest = max(map(len, texts))
        if not longest:
            return [np.empty((0, self._model.config.get_text_config().vocab_size), np.float32) for _ in texts]
        known = self._read
        self._keep(owners)
        ids = [text + [0] * (longest - len(text)) for text in texts]
        mask = torch.tensor(
            [[1] * (known + len(text)) + [0] * (longest - len(text)) for text in texts],
            device=self._model.device,
        )
        logits = self._logits(self._run(ids, mask, None, last=False))
        return [rows[: len(text)] for rows, text in zip(logits, texts, strict=True)]

    def _run(self, ids: list[list[int]], mask: Any, places: list[list[int]] | None, *, last: bool) -> Any:
        import torch

        device = self._model.device
        words: dict[str, Any] = {"past_key_values": self._past, "use_cache": True}
        if mask is not None:
            words["attention_mask"] = mask
        if places is not None:
            words["position_ids"] = torch.tensor(places, device=device)
        if last and "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            words["logits_to_keep"] = 1
        with torch.inference_mode():
            out = self._model(torch.tensor(ids, device=device), **words)
        self._past = out.past_key_values
        self._read += len(ids[0])
        return out.logits

    def _keep(self, rows: list[int]) -> None:
        """The past of these rows alone, in this order; a row may be taken several times.

        The method is made for beams, and the one that every kind of layer has.
        """
        import torch

        self._past.reorder_cache(torch.tensor(rows, device=self._model.device))

    def _logits(self, logits: Any) -> NDArray[np.float32]:
        values: NDArray[np.float32] = logits.float().cpu().numpy()
        return values
