"""GPTQ (Frantar et al., arXiv 2210.17323): each weight's rounding error is made up for in those after it.

Ours, because the one that comes with onnxruntime (1.32, `neural_compressor.weight_only.gptq`) reads the
factor of the inverse by its columns, which are zero there, and so rounds to nearest: the same codes for any
inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMPING = 0.01
"""Share of the mean moment that is added to each, so that the inverse exists: the paper's."""


def gptq(
    weight: NDArray[Any], factor: NDArray[np.float32], bits: int, block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Codes (K, N), scales and zero points (blocks, N) of a weight (K, N), blocks along K.

    The sum over the layer's inputs x of |x(W - Q)|² is made small, one row of W after another: what rounding
    row i gets wrong is taken from the rows after it, by row i of `factor` (`inverse_factor`). A block's
    scale and zero point are set when its first row is reached, from what its rows are by then.
    """
    rest = weight.astype(np.float32)
    rows, columns = rest.shape
    top = 2**bits - 1
    codes = np.empty((rows, columns), np.uint8)
    scales, zeros = [], []
    for start in range(0, rows, block_size):
        stop = min(start + block_size, rows)
        low = np.minimum(rest[start:stop].min(axis=0), 0)
        high = np.maximum(rest[start:stop].max(axis=0), 0)
        scale = np.where(high > low, (high - low) / top, 1).astype(np.float32)
        zero = np.round(-low / scale)
        errors = np.empty((stop - start, columns), np.float32)
        for row in range(start, stop):
            code = np.clip(np.round(rest[row] / scale) + zero, 0, top)
            codes[row] = code
            error = (rest[row] - (code - zero) * scale) / factor[row, row]
            rest[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], error)
            errors[row - start] = error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
        scales.append(scale)
        zeros.append(zero.astype(np.uint8))
    return codes, np.stack(scales), np.stack(zeros)


def inverse_factor(moments: NDArray[Any]) -> NDArray[np.float32]:
    """The upper Cholesky factor of the inverse of a layer's moments, (K, K), damped.

    Moments are 2/n times the sum of x xᵀ over the inputs x. Memory: 24 bytes for each of them.
    """
    damped = moments.astype(np.float64)
    diagonal = np.arange(len(damped))
    damped[diagonal, diagonal] += DAMPING * max(float(damped[diagonal, diagonal].mean()), 1e-12)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T, dtype=np.float32)
