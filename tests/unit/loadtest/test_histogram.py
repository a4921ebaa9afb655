# SPDX-License-Identifier: Apache-2.0
"""Latencies by bucket: near the exact percentiles, and the same for one process as for three."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attnserve_loadtest.histogram import Histogram

SHARES = (0.01, 0.5, 0.9, 0.99, 0.999, 1.0)


def filled(values: np.ndarray) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(float(value))
    return made


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).lognormal(3, 1.2, 20_000)


def test_percentiles_are_near_the_exact_ones(values: np.ndarray) -> None:
    found = filled(values)
    for share in SHARES:
        assert found.percentile(share) == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=0.006)
    assert found.mean == pytest.approx(values.mean())
    assert found.max == values.max()


def test_parts_add_up(values: np.ndarray) -> None:
    whole, merged = filled(values), Histogram()
    for part in np.array_split(values, 3):
        merged.merge(Histogram.from_dict(json.loads(json.dumps(filled(part).to_dict()))))
    assert merged.count == whole.count
    assert [merged.percentile(share) for share in SHARES] == [whole.percentile(share) for share in SHARES]
    assert merged.sum == pytest.approx(whole.sum)


def test_empty_histogram_and_values_near_zero() -> None:
    empty = Histogram()
    assert (empty.percentile(0.5), empty.mean, empty.max) == (0.0, 0.0, 0.0)
    assert filled(np.array([0.0, -1.0])).percentile(1.0) <= 1.1e-3
