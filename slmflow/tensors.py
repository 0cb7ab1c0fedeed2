"""What safetensors files hold, from their headers: nothing else of them is read."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.files import read_json

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file."""

    path: Path
    shape: tuple[int, ...]
    offset: int
    """Bytes of the file before its values."""

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """The files that are the model's, as transformers chooses them: the one file, else those of the index.

    Other safetensors may lie beside them.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / "model.safetensors.index.json").is_file():
        named = set(read_json(folder / "model.safetensors.index.json")["weight_map"].values())
        return sorted(folder / name for name in named)
    return sorted(folder.glob("*.safetensors"))


def tensors_in(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the model in a folder, by name."""
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        found |= tensors_of(path)
    return found


def tensors_of(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file: 8 bytes of length, then JSON.

    Raises SlmflowError when it is no such file, or is cut short.
    """
    with path.open("rb") as file:
        length_bytes = file.read(8)
        length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else math.inf
        if length > path.stat().st_size - 8:
            raise SlmflowError(f"{path.name}: not a safetensors file, or cut short: fetch it again")
        raw = file.read(int(length))
    try:
        return {
            name: StoredTensor(path, tuple(entry["shape"]), 8 + int(length) + entry["data_offsets"][0])
            for name, entry in json.loads(raw).items()
            if name != "__metadata__"
        }
    except (ValueError, AttributeError, TypeError, KeyError, IndexError):
        raise SlmflowError(f"{path.name}: its safetensors header cannot be read: fetch it again") from None
