"""The tokenizer of a model folder, without transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .template import render

JOINT = "\ue000\uf8ff\ue000"
"""Private-use characters that no text needs; those of a text are taken out where it holds a special token."""


class TextTokenizer:
    """Text to ids and back, and chats to prompts, from tokenizer.json and tokenizer_config.json."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        self.special_tokens = {name: _text_of(config[name]) for name in names if config.get(name)}
        self.chat_template = _chat_template(folder, config)
        added = self._tokenizer.get_added_tokens_decoder().values()
        markers = sorted({token.content for token in added if token.special}, key=len, reverse=True)
        self._marker = re.compile("|".join(map(re.escape, markers))) if markers else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text that may hold the model's own markers, with BOS where the tokenizer adds one.

        A text that begins with BOS already gets no second one.
        """
        bos = self.special_tokens.get("bos_token")
        add = not (bos and text.startswith(bos))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add).ids
        return ids

    def decode(self, ids: list[int], *, keep_special: bool = False) -> str:
        """Text of ids, without special tokens unless they are to be kept."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=not keep_special)
        return text

    def token_text(self, token: int) -> str:
        """The text of one token, special ones too; half a character is shown as U+FFFD."""
        return self.decode([token], keep_special=True)

    def prompt_of(self, messages: list[dict[str, Any]], **names: Any) -> str:
        """The rendered chat template; raises ValueError when the model has none."""
        if self.chat_template is None:
            raise ValueError("this model has no chat template: send `prompt` with its own markers instead")
        return render(self.chat_template, messages, **self.special_tokens, **names)

    def encode_chat(self, messages: list[dict[str, Any]], **names: Any) -> list[int]:
        """Ids of a rendered chat; the template writes every special token itself.

        A special token in the text of a message stays text: else a user could end his own turn and write
        the assistant's.
        """
        broken = [_map_texts(message, self._break) for message in messages]
        if broken == messages or self._marker is None:
            prompt = self.prompt_of(messages, **names)
            ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False).ids
            return ids
        prompt = self.prompt_of(broken, **names)
        ids, at = [], 0
        for marker in self._marker.finditer(prompt):
            ids += self._text_ids(prompt[at : marker.start()], first=at == 0)
            token = self._tokenizer.token_to_id(marker.group())
            assert token is not None  # the pattern is of the tokenizer's own markers
            ids.append(token)
            at = marker.end()
        return ids + self._text_ids(prompt[at:], first=at == 0)

    def _break(self, text: str) -> str:
        """Put a joint into every special token of a text, so that it is none in the rendered prompt."""
        if self._marker is None:
            return text
        return self._marker.sub(lambda found: found.group()[0] + JOINT + found.group()[1:], text)

    def _text_ids(self, text: str, *, first: bool) -> list[int]:
        """Ids of a part of a prompt between special tokens."""
        text = text.replace(JOINT, "")
        if not text:
            return []
        tokenizer = self._plain[0 if first else 1]
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _plain(self) -> tuple[Tokenizer, Tokenizer]:
        """Two for which special tokens are text: for the first part of a prompt, and for those after it.

        Their own objects, since many threads encode at once.
        """
        return _plain(self._folder, {}), _plain(self._folder, {"first": "never"})


def _plain(folder: Path, prepend: dict[str, str]) -> Tokenizer:
    """The tokenizer with special tokens as text, and other schemes of putting a space before a text."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pre = content.get("pre_tokenizer") or {}
    for part in [pre, *(pre.get("pretokenizers") or [])]:
        if part.get("type") == "Metaspace" and "prepend_scheme" in part:
            part["prepend_scheme"] = prepend.get(part["prepend_scheme"], part["prepend_scheme"])
    plain = Tokenizer.from_str(json.dumps(content))
    plain.no_padding()
    plain.no_truncation()
    plain.encode_special_tokens = True
    return plain


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A message with every text in it changed, keys apart."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    return [_map_texts(item, change) for item in value] if isinstance(value, list) else value


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
