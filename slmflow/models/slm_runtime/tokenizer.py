"""The tokenizer of a model folder, without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .template import render


class TextTokenizer:
    """Text to ids and back, and chats to prompts, from tokenizer.json and tokenizer_config.json."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        self.special_tokens = {name: _text_of(config[name]) for name in names if config.get(name)}
        self.chat_template = _chat_template(folder, config)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that may hold the model's own markers, with BOS where the tokenizer adds one.

        A text that begins with BOS already gets no second one.
        """
        bos = self.special_tokens.get("bos_token")
        add = not (bos and text.startswith(bos))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def prompt_of(self, messages: list[dict[str, Any]], **names: Any) -> str:
        """The rendered chat template; raises ValueError when the model has none."""
        if self.chat_template is None:
            raise ValueError("this model has no chat template: send `prompt` with its own markers instead")
        return render(self.chat_template, messages, **self.special_tokens, **names)

    def encode_chat(self, messages: list[dict[str, Any]], **names: Any) -> list[int]:
        """Ids of a rendered chat; the template writes every special token itself."""
        ids: list[int] = self._tokenizer.encode(
            self.prompt_of(messages, **names), add_special_tokens=False
        ).ids
        return ids


def _text_of(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The default template: a file of its own (newer transformers) or a field of the configuration."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several templates by name
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template
