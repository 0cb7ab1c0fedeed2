"""The header of a GGUF file, believed in nothing: every count is held against the bytes that are there.

`gguf.GGUFReader` trusts the file: counts make it allocate, and offsets are not looked at until a tensor is
taken. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.gguf.file import KINDS, GgufFile, GgufTensor, Kind

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ENTRIES = 1 << 16
"""Of metadata, and of tensors: the largest published models have some thousands."""
MOST_ELEMENTS = 1 << 22
"""Of all arrays of metadata together; the largest vocabulary has some 300,000 tokens."""
MOST_DIMENSIONS = 4
LONGEST_NAME = 64
STRING, ARRAY, BOOLEAN = 8, 9, 7
NUMBERS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "|b1"))) | {
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Type of a metadata value to numpy's name for it."""


def read_gguf(path: Path) -> GgufFile:
    """Read and check a header; no tensor is touched.

    Raises SlmflowError when the file is no GGUF, is one of several parts, is cut short, or describes
    tensors that it cannot hold or that cannot be read, naming the tensor and its type.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except (OSError, ValueError) as error:  # mmap refuses an empty file
        raise SlmflowError(f"{path.name}: cannot be read as GGUF: {error}") from None


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.elements = path, data, 0, 0

    def read(self) -> GgufFile:
        if self.data[:4] != MAGIC:
            self.refuse("it does not begin with the letters GGUF: it is another kind of file")
        self.at = 4
        version = self.number("<u4", "the version")
        if version not in VERSIONS:
            big = version in (v << 24 for v in VERSIONS)
            self.refuse("it is big-endian" if big else f"its version is {version}: only 2 and 3 can be read")
        count = self.number("<u8", "the number of tensors")
        entries = self.number("<u8", "the number of metadata entries")
        for name, value in (("tensors", count), ("metadata entries", entries)):
            if value > MOST_ENTRIES:
                self.refuse(f"it claims {value} {name}: it is damaged, fetch it again")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.text("a metadata key")
            if key in metadata:
                self.refuse(f"it has the metadata {key!r:.80} twice")
            metadata[key] = self.value(f"metadata {key!r:.80}")
        if metadata.get("split.count", 0) not in (0, 1):
            raise SlmflowError(
                f"{self.path.name} is one of {metadata['split.count']!r:.20} parts: join them first, by "
                "llama.cpp's `llama-gguf-split --merge`"
            )
        described = [self.tensor() for _ in range(count)]
        return GgufFile(self.path, metadata, self.placed(described, self.alignment(metadata)))

    def refuse(self, why: str) -> NoReturn:
        raise SlmflowError(f"{self.path.name}: cannot be read as GGUF: {why}")

    def take(self, count: int, what: str) -> bytes:
        if count > len(self.data) - self.at:
            self.refuse(f"it ends within {what}: fetch it again")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, dtype: str, what: str) -> int:
        kind = np.dtype(dtype)
        return int(np.frombuffer(self.take(kind.itemsize, what), kind)[0])

    def text(self, what: str) -> str:
        length = self.number("<u8", what)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            self.refuse(f"{what} is no text")

    def value(self, what: str) -> Any:
        kind = self.number("<u4", what)
        if kind == STRING:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in NUMBERS:
            self.refuse(f"{what} has the type {kind}, which GGUF does not know")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def array(self, what: str) -> list[str] | NDArray[Any]:
        kind, count = self.number("<u4", what), self.number("<u8", what)
        self.elements += count
        if self.elements > MOST_ELEMENTS:
            self.refuse(f"{what} claims {count} elements: more than a vocabulary has")
        if kind == STRING:
            if count * 8 > len(self.data) - self.at:
                self.refuse(f"it ends within {what}: fetch it again")
            return [self.text(what) for _ in range(count)]
        if kind not in NUMBERS:
            self.refuse(f"{what} is an array of the type {kind}, which cannot be read")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)

    def alignment(self, metadata: dict[str, Any]) -> int:
        found = metadata.get("general.alignment", 32)
        if not isinstance(found, int) or found < 8 or found > 1 << 20 or found & (found - 1):
            self.refuse(f"its alignment is {found!r:.60}, and should be a power of two from 8")
        return found

    def tensor(self) -> tuple[str, tuple[int, ...], Kind, int]:
        name = self.text("a tensor's name")
        if not (0 < len(name.encode()) < LONGEST_NAME and name.isascii() and name.isprintable()):
            self.refuse(f"a tensor's name {name!r:.80} is empty, too long, or not printable")
        dimensions = self.number("<u4", f"tensor {name}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            self.refuse(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("<u8", f"tensor {name}") for _ in range(dimensions))[::-1]
        number = self.number("<u4", f"tensor {name}")
        if number not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            self.refuse(f"tensor {name} has the type {type_name(number)}; what can be read is {known}")
        kind = KINDS[number]
        if not all(shape) or prod(shape) > len(self.data) * 8:
            self.refuse(f"tensor {name} of type {kind.name} has the shape {list(shape)}")
        if shape[-1] % kind.block:
            self.refuse(f"tensor {name}: rows of {shape[-1]} are no multiple of {kind.name}'s {kind.block}")
        return name, shape, kind, self.number("<u8", f"tensor {name}")

    def placed(
        self, described: list[tuple[str, tuple[int, ...], Kind, int]], alignment: int
    ) -> dict[str, GgufTensor]:
        """The tensors, each within the file, aligned, and none over another."""
        start = -(-self.at // alignment) * alignment
        found: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in described:
            tensor = GgufTensor(self.path, name, shape, kind, start + offset)
            if name in found:
                self.refuse(f"it has the tensor {name} twice")
            if offset % alignment:
                self.refuse(f"tensor {name} begins at {offset}, which is not aligned to {alignment}")
            if (end := tensor.offset + tensor.nbytes) > len(self.data):
                self.refuse(
                    f"tensor {name} of type {kind.name} ends at byte {end}, and the file has "
                    f"{len(self.data)}: it was cut short, fetch it again"
                )
            found[name] = tensor
        in_order = sorted(found.values(), key=lambda tensor: tensor.offset)
        for one, other in pairwise(in_order):
            if one.offset + one.nbytes > other.offset:
                self.refuse(f"tensors {one.name} and {other.name} lie over each other")
        return found


def type_name(number: int) -> str:
    """GGML's name for a type that cannot be read."""
    from gguf import GGMLQuantizationType

    return next((kind.name for kind in GGMLQuantizationType if kind == number), str(number))
