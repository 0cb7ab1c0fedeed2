"""What safetensors files hold, from their headers alone; and such files, written a piece at a time."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file."""

    path: Path
    shape: tuple[int, ...]
    offset: int
    """Bytes of the file before its values."""
    length: int
    """Bytes of its values."""
    dtype: str
    """As safetensors names it: `F32`, `BF16`."""

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of its values, PIECE_BYTES at a time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece


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
            name: _stored(path, entry, 8 + int(length))
            for name, entry in json.loads(raw).items()
            if name != "__metadata__"
        }
    except (ValueError, AttributeError, TypeError, KeyError, IndexError):
        raise SlmflowError(f"{path.name}: its safetensors header cannot be read: fetch it again") from None


def _stored(path: Path, entry: dict[str, Any], start: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(path, tuple(entry["shape"]), start + begin, end - begin, entry["dtype"])


@dataclass(frozen=True)
class Weight:
    """A tensor to be written: `dtype` as safetensors names it (`F32`, `BF16`), its bytes in pieces."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[bytes]]


def write_tensors(path: Path, weights: Sequence[Weight]) -> None:
    """Write a file of tensors, holding a piece of one at a time; the library's own writer wants all of them.

    The format: https://huggingface.co/docs/safetensors/#format
    """
    weights = sorted(weights, key=lambda weight: -BYTES[weight.dtype])  # so that each lies aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in weights:
        begin, end = end, end + math.prod(weight.shape) * BYTES[weight.dtype]
        header[weight.name] = {
            "dtype": weight.dtype,
            "shape": list(weight.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in weights:
            for piece in weight.pieces():
                file.write(piece)
        assert file.tell() == 8 + len(text) + end, path
