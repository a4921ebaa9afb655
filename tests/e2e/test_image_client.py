# SPDX-License-Identifier: Apache-2.0
"""The Python client's segmentations and classifications by the shipped models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from attnserve_client import Client, InvalidRequest
from attnserve_client.demo.steps import PHOTO, STREET, STREET_QUERIES
from attnserve_client.pictures import upright
from tests.e2e.serving import Server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.target) as connected:
        yield connected


def test_class_map_is_the_same_in_every_form(client: Client) -> None:
    first, *others = (client.segment(STREET, format=form) for form in ("run_lengths", "png", "raw"))
    assert first.class_map.shape == upright(STREET.read_bytes()).shape[:2]
    assert all((each.class_map == first.class_map).all() for each in others)
    shares = np.bincount(first.class_map.reshape(-1), minlength=len(first.classes)) / first.class_map.size
    assert [each.share for each in first.classes] == pytest.approx(shares.tolist(), abs=1e-6)
    assert all(0 < each.confidence <= 1 for each in first.present)


def test_maps_cover_the_image_and_sum_to_one(client: Client) -> None:
    attention = client.segment(STREET, return_unary=True, queries=STREET_QUERIES).attention
    assert attention is not None
    assert attention.unary is not None
    assert (attention.columns - 1) * attention.cell_width < 960 <= attention.columns * attention.cell_width + 1e-3
    assert (attention.rows - 1) * attention.cell_height < 540 <= attention.rows * attention.cell_height + 1e-3
    assert [each.query for each in attention.pairwise] == list(STREET_QUERIES)
    for weights in (attention.unary, *(each.weights for each in attention.pairwise)):
        assert weights.shape == (attention.rows, attention.columns)
        assert float(weights.sum()) == pytest.approx(1, abs=1e-3)
    for (x, y), each in zip(STREET_QUERIES, attention.pairwise, strict=True):
        row, column = each.cell
        assert column * attention.cell_width <= x + 1 < (column + 1) * attention.cell_width + 2
        assert row * attention.cell_height <= y + 1 < (row + 1) * attention.cell_height + 2


def test_query_outside_the_image_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.segment(STREET, queries=[(0, 0), (960, 0)])
    assert caught.value.field == "queries[1].x"


def test_blocks_have_factors_from_zero_to_one(client: Client) -> None:
    answer = client.classify_image(PHOTO, top_k=10, return_attention=True)
    assert sum(each.probability for each in answer.classes) == pytest.approx(1, abs=1e-4)
    assert answer.best.probability == max(each.probability for each in answer.classes)
    for block in answer.attention:
        for factors in (block.channels, block.spatial):
            assert factors is not None
            assert 0 <= float(factors.min()) <= float(factors.max()) <= 1
