# SPDX-License-Identifier: Apache-2.0
"""Latent vectors of generated images: a function of the request's seed and the image's index, as ``manifest.proto`` describes it.

The numbers are made from the bits of the generator, not by NumPy's own normal distribution: NumPy keeps the bits of a generator the
same in all versions, but not the distributions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BITS = 53
"""Random bits of a uniform number."""


def latent_vector(seed: int, index: int, size: int) -> npt.NDArray[np.float32]:
    """Returns the latent vector (size) of one image; its entries are independent draws from N(0, 1).

    Args:
        seed: of the request, below 2^64.
        index: of the image in the request.
        size: number of entries.
    """
    generator = np.random.Philox(key=np.array([seed, index], dtype=np.uint64))
    bits = np.asarray(generator.random_raw(size + size % 2), np.uint64) >> np.uint64(64 - _BITS)
    first, second = (bits[0::2] + np.uint64(1)) * 2.0**-_BITS, bits[1::2] * 2.0**-_BITS
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    pairs = np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)
    return pairs.reshape(-1)[:size].astype(np.float32)
