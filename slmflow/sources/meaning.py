"""What a Hugging Face folder means, whichever library wrote it: two of the same model have one digest.

transformers 5 saves the same weights in other files than 4: another config.json, another
tokenizer_config.json, perhaps other shards. The digest of the files tells them apart, this one does not.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from slmflow.files import canonical_digest
from slmflow.tensors import StoredTensor, tensors_in

if TYPE_CHECKING:
    from pathlib import Path

OF_THE_WRITER = ("transformers_version", "_name_or_path", "architectures")
"""Keys of a configuration that say who wrote it, or repeat its kind."""


def meaning_of(folder: Path) -> str:
    """The digest of a folder's tensors, its configuration and its tokenizer as they are read here."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).to_dict()
    parts = {
        "weights": {name: _digest(tensor) for name, tensor in tensors_in(folder).items()},
        "config": {key: _plain(value) for key, value in config.items() if key not in OF_THE_WRITER},
        "tokenizer": _tokenizer(folder),
    }
    return canonical_digest(parts)


def _digest(tensor: StoredTensor) -> list[Any]:
    values = hashlib.sha256()
    for piece in tensor.pieces():
        values.update(piece)
    return [tensor.dtype, list(tensor.shape), values.hexdigest()]


def _tokenizer(folder: Path) -> list[Any]:
    """Its rules, its template, and the texts of its special tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, special]


def _plain(value: Any) -> Any:
    """As JSON has it: a tuple is a list, a dtype its name."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
