# SPDX-License-Identifier: Apache-2.0
"""8-bit weights with one scale a channel: rounds a matrix to integers times scales, and recovers both from the rounded matrix.

A scale has so few mantissa bits that its products with integers up to 127 are exact. So the scale can be recovered from the largest
weight of its channel, and a bundle's weights are bit-identical to those of the exported module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int8]
Scales = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]
LEVELS = 127
_SPARE_BITS = 8
"""Number of a scale's 23 mantissa bits that are 0."""


def rounded(weights: npt.NDArray[Any], axis: int = 0) -> Weights:
    """Returns the nearest weights that are integers from -127 to 127 times one scale for each index of ``axis``."""
    array = np.asarray(weights, np.float32)
    scales = _scales(array, axis)
    result: Weights = (np.clip(np.rint(array / scales), -LEVELS, LEVELS) * scales).astype(np.float32)
    return result


def split(weights: Weights) -> tuple[Integers, Scales] | None:
    """Returns integers and scales whose product is exactly ``weights``, with channels along the first or last axis, or None."""
    if weights.ndim < 2:
        return None
    for axis in (0, weights.ndim - 1):
        scales = _scales(weights, axis)
        integers = np.rint(weights / scales)
        if np.array_equal(integers * scales, weights) and np.abs(integers).max() <= LEVELS:
            return integers.astype(np.int8), scales
    return None


def _scales(array: Weights, axis: int) -> Scales:
    """Returns the largest weight of each channel over 127, rounded up to few bits: shaped to be multiplied with ``array``."""
    others = tuple(each for each in range(array.ndim) if each != axis)
    exact = np.maximum(np.abs(array).max(others, keepdims=True) / np.float32(LEVELS), np.float32(1e-30)).astype(np.float32)
    bits = exact.view(np.uint32)
    mask = np.uint32((1 << _SPARE_BITS) - 1)
    scales: Scales = ((bits + mask) & ~mask).view(np.float32)
    return scales
