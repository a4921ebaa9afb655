# SPDX-License-Identifier: Apache-2.0
"""Latent vectors agree with an independent implementation of what ``manifest.proto`` says of them, and are from N(0, 1)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnserve_server.tasks.latent import latent_vector

MASK = 2**64 - 1


def block(key: tuple[int, int], counter: int) -> list[int]:
    """Philox 4x64 with 10 rounds (Salmon et al. 2011, section 4.3): four numbers of 64 bits."""
    words, keys = [counter, 0, 0, 0], list(key)
    for _ in range(10):
        first, second = words[0] * 0xD2E7470EE14C6C93, words[2] * 0xCA5A826395121157
        words = [second >> 64 ^ words[1] ^ keys[0], second & MASK, first >> 64 ^ words[3] ^ keys[1], first & MASK]
        keys = [keys[0] + 0x9E3779B97F4A7C15 & MASK, keys[1] + 0xBB67AE8584CAA73B & MASK]
    return words


def described(seed: int, index: int, size: int) -> list[float]:
    numbers = [number >> 11 for counter in range(1, size // 4 + 2) for number in block((seed, index), counter)]
    found: list[float] = []
    while len(found) < size:
        u, v = (numbers.pop(0) + 1) / 2**53, numbers.pop(0) / 2**53
        found += [math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * v) for turn in (math.cos, math.sin)]
    return found[:size]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**63, 2**64 - 1])
@pytest.mark.parametrize(("index", "size"), [(0, 128), (63, 128), (5, 7), (0, 1)])
def test_vector_is_the_described_one(seed: int, index: int, size: int) -> None:
    found = latent_vector(seed, index, size)
    assert (found.dtype, found.shape) == (np.float32, (size,))
    np.testing.assert_allclose(found, described(seed, index, size), rtol=1e-6, atol=1e-12)


def test_vectors_are_independent_draws_from_the_normal_distribution() -> None:
    values = np.stack([latent_vector(seed, index, 128) for seed in range(40) for index in range(64)]).astype(np.float64)
    count = values.size
    assert abs(values.mean()) < 4 / math.sqrt(count)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / count)
    for bound, share in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
        assert abs((np.abs(values) < bound).mean() - share) < 4 * math.sqrt(share * (1 - share) / count)
    others = np.roll(values, 1, 0)
    assert abs((values * others).mean()) < 4 / math.sqrt(count)
    assert abs((values[:, 1:] * values[:, :-1]).mean()) < 4 / math.sqrt(count)
