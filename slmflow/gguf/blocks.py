"""GGML's packed blocks, taken apart into the codes and scales that `MatMulNBits` computes with.

    weight = scale · (code - middle) + offset          middle is 8 for 4-bit codes, 128 for 8-bit ones

with a scale, and where the type has minima an offset, for each group of 16 or 32 weights along a row:

    scale = d, or d · scale_code                       offset = centre · scale + m, or - m · minimum_code

Every part is a rearrangement of the file's bits, no arithmetic. Codes are signed around the middle (`centre`
is what GGML's unsigned code is then less by), so that rounding errors of the activations meet small codes.
Layouts: `ggml-common.h` and `gguf.quants`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = Callable[["NDArray[np.uint8]"], "NDArray[Any]"]


@dataclass(frozen=True)
class Layout:
    """How a type's blocks come apart; every part takes raw blocks (n, bytes) and has n rows."""

    bits: int
    group: int
    """Weights with one scale."""
    centre: int
    """What a weight's unsigned code is less by, in its offset."""
    codes: Part
    """(n, weights of a block), unsigned, around the middle."""
    d: Part
    """(n, 1), float16."""
    scale_codes: Part | None = None
    """(n, groups of a block), integers."""
    m: Part | None = None
    """(n, 1), float16: the minimum, to be added; of K-quants its factor, whose product is to be taken off."""
    minimum_codes: Part | None = None
    """(n, groups of a block), integers."""

    @property
    def middle(self) -> int:
        """The code of zero, before the offset."""
        return 1 << (self.bits - 1)


def _half(at: int) -> Part:
    return lambda raw: np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16)


def _nibbles(raw: NDArray[np.uint8], run: int) -> NDArray[np.uint8]:
    """Low nibbles of each run of bytes, then its high ones: (n, bytes) to (n, 2 · bytes)."""
    runs = raw.reshape(len(raw), -1, 1, run)
    return np.asarray(runs >> np.array([[0], [4]], np.uint8) & 15, np.uint8).reshape(len(raw), -1)


def _bits(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The fifth bits of 32 weights, lowest first: (n, 4) to (n, 32)."""
    return np.unpackbits(raw, axis=1, bitorder="little")


def _five(nibbles: NDArray[np.uint8], high: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray((nibbles | high << 4) + (128 - 16), np.uint8)


def _q5_k(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    high = np.asarray(raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1, np.uint8)
    return _five(_nibbles(raw[:, 48:176], 32), high.reshape(len(raw), 256))


def _q6_k(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    high = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8)
    codes = _nibbles(raw[:, :128], 64) | (high.reshape(len(raw), 256) & 3) << 4
    return np.asarray(codes + (128 - 32), np.uint8)


def _k_scales(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low, _, mixed = np.split(raw[:, 4:16], 3, axis=1)
    return np.concatenate([low & 63, mixed & 15 | low >> 2 & 48], axis=1)


def _k_minima(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, low, mixed = np.split(raw[:, 4:16], 3, axis=1)
    return np.concatenate([low & 63, mixed >> 4 | low >> 2 & 48], axis=1)


LAYOUTS = {
    "Q4_0": Layout(4, 32, 0, lambda raw: _nibbles(raw[:, 2:18], 16), _half(0)),
    "Q4_1": Layout(4, 32, 8, lambda raw: _nibbles(raw[:, 4:20], 16), _half(0), m=_half(2)),
    "Q5_0": Layout(8, 32, 0, lambda raw: _five(_nibbles(raw[:, 6:22], 16), _bits(raw[:, 2:6])), _half(0)),
    "Q5_1": Layout(
        8, 32, 16, lambda raw: _five(_nibbles(raw[:, 8:24], 16), _bits(raw[:, 4:8])), _half(0), m=_half(2)
    ),
    "Q8_0": Layout(8, 32, 0, lambda raw: raw[:, 2:34] ^ 128, _half(0)),
    "Q4_K": Layout(
        4, 32, 8, lambda raw: _nibbles(raw[:, 16:144], 32), _half(0), _k_scales, _half(2), _k_minima
    ),
    "Q5_K": Layout(8, 32, 16, _q5_k, _half(0), _k_scales, _half(2), _k_minima),
    "Q6_K": Layout(8, 16, 0, _q6_k, _half(208), lambda raw: raw[:, 192:208].view(np.int8)),
}
"""The quantised types; the others are plain floats."""


def packed_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes along the last axis as `MatMulNBits` wants them: two 4-bit codes a byte, the first one low."""
    return codes if bits == 8 else np.asarray(codes[..., ::2] | codes[..., 1::2] << 4, np.uint8)
