# SPDX-License-Identifier: Apache-2.0
"""CBAM's equations 1 to 3 (Woo et al. 2018) in float64, one number at a time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def channel_attention(x: Array, squeeze: tuple[Array, Array], excite: tuple[Array, Array]) -> Array:
    """Equation 2 for one map (C, H, W); each layer is a matrix (outputs, inputs) and a bias. Returns (C)."""
    channels, height, width = x.shape
    pools = [
        [sum(x[c, i, j] for i in range(height) for j in range(width)) / (height * width) for c in range(channels)],
        [max(x[c, i, j] for i in range(height) for j in range(width)) for c in range(channels)],
    ]
    totals = [0.0] * channels
    for pooled in pools:
        hidden = [max(0.0, sum(row[c] * pooled[c] for c in range(channels)) + bias) for row, bias in zip(*squeeze, strict=True)]
        for c, (row, bias) in enumerate(zip(*excite, strict=True)):
            totals[c] += sum(weight * value for weight, value in zip(row, hidden, strict=True)) + bias
    return np.array([sigmoid(total) for total in totals])


def spatial_attention(x: Array, kernel: Array, bias: float) -> Array:
    """Equation 3 for one map (C, H, W) and a kernel (2, k, k), average first. Returns (H, W)."""
    channels, height, width = x.shape
    size = kernel.shape[1]
    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            total = bias
            for di in range(size):
                for dj in range(size):
                    y, z = i + di - size // 2, j + dj - size // 2
                    if 0 <= y < height and 0 <= z < width:
                        values = [x[c, y, z] for c in range(channels)]
                        total += kernel[0, di, dj] * sum(values) / channels + kernel[1, di, dj] * max(values)
            out[i, j] = sigmoid(total)
    return out
