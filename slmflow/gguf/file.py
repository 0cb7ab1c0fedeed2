"""A GGUF file as its header describes it: metadata with their types checked, and tensors by name."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


PIECE_WEIGHTS = 4_000_000
"""Weights worked on at once; K-quants need some 100 MB for them."""


@dataclass(frozen=True)
class Kind:
    """How the weights of a tensor are stored."""

    number: int
    name: str
    block: int
    """Weights that are packed together, along a row."""
    bytes: int
    """Bytes of such a block."""


KINDS = {
    kind.number: kind
    for kind in (
        Kind(0, "F32", 1, 4),
        Kind(1, "F16", 1, 2),
        Kind(30, "BF16", 1, 2),
        Kind(2, "Q4_0", 32, 18),
        Kind(3, "Q4_1", 32, 20),
        Kind(6, "Q5_0", 32, 22),
        Kind(7, "Q5_1", 32, 24),
        Kind(8, "Q8_0", 32, 34),
        Kind(12, "Q4_K", 256, 144),
        Kind(13, "Q5_K", 256, 176),
        Kind(14, "Q6_K", 256, 210),
    )
}
"""What can be read, by GGML's number."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file; `shape` as numpy has it, the fastest axis last (GGUF writes it first)."""

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int
    """Bytes of the file before it."""

    @property
    def size(self) -> int:
        """The number of its weights."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return self.size // self.kind.block * self.kind.bytes

    def rows(self) -> NDArray[np.uint8]:
        """The packed bytes, mapped from the file: (rows, bytes of a row); a vector is one row."""
        count = prod(self.shape[:-1])
        return np.memmap(self.path, np.uint8, "r", self.offset, (count, self.nbytes // count))

    def pieces(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Packed rows in an order, some `PIECE_WEIGHTS` weights at a time; a vector's values are its rows."""
        packed = self.rows().reshape(self.shape[0], -1)
        step = max(1, PIECE_WEIGHTS * len(packed) // self.size)
        for start in range(0, len(order), step):
            yield packed[order[start : start + step]]


@dataclass(frozen=True)
class GgufFile:
    """A file whose header holds together: metadata by key, tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The name of the family, which is also the prefix of its own metadata."""
        return self.text("general.architecture")

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Raises SlmflowError, as all of these do, when it is missing or of another type."""
        return self._take(key, str, "text", default)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer of any width that is not negative."""
        value: int = self._take(key, int, "an integer", default)
        if value < 0:
            raise SlmflowError(f"{self.path.name}: {key} is {value}, and cannot be negative")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number, as the shortest decimal that its float32 stands for."""
        value = self._take(key, (int, float), "a number", default)
        with np.errstate(over="ignore"):
            single = np.float32(value)
        if not np.isfinite(single):
            raise SlmflowError(f"{self.path.name}: {key} is {value}, which is no number")
        return float(str(single))

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        return bool(self._take(key, bool, "true or false", default))

    def texts(self, key: str) -> list[str]:
        """An array of strings."""
        return list(self._take(key, list, "an array of texts"))

    def numbers(self, key: str) -> NDArray[Any]:
        """An array of numbers."""
        return np.asarray(self._take(key, np.ndarray, "an array of numbers"))

    def token(self, role: str, tokens: int) -> int | None:
        """The id of the token with a role (`bos`, `eot`), where there is one; there are so many `tokens`."""
        key = f"tokenizer.ggml.{role}_token_id"
        if key not in self.metadata:
            return None
        if (index := self.integer(key)) >= tokens:
            raise SlmflowError(f"{self.path.name}: {key} is {index}, and there are {tokens} tokens")
        return index

    def _take(self, key: str, kind: Any, said: str, default: Any = None) -> Any:
        value = self.metadata.get(key, default)
        if value is None:
            raise SlmflowError(f"{self.path.name}: its metadata has no {key}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise SlmflowError(f"{self.path.name}: {key} is {value!r:.60}, and should be {said}")
        return value


def _line(value: Any) -> str:
    """What a file says of itself, fit for a terminal and a tag."""
    return "".join(sign if sign.isprintable() else " " for sign in str(value)[:200]).strip()


def described(file: GgufFile) -> dict[str, Any]:
    """What a file says of itself: its name, licence, architecture, and the types of its weights by share."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.kind.name] = sizes.get(tensor.kind.name, 0) + tensor.size
    shares = sorted(((size / sum(sizes.values()), name) for name, size in sizes.items()), reverse=True)
    return {
        "file": file.path.name,
        "name": _line(file.metadata.get("general.name", file.path.stem)),
        "licence": _line(file.metadata.get("general.license", "")) or None,
        "architecture": file.architecture,
        "quantisation": ", ".join(f"{name} {share:.1%}" for share, name in shares),
    }
