# SPDX-License-Identifier: Apache-2.0
"""2,000 mutated image files through the preparation of both single-pass tasks: a payload or ``InvalidRequest``, in bounded time."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks.classification import AskedClassification
from attnserve_server.tasks.images import ImageLimits
from attnserve_server.tasks.interface import Limits
from attnserve_server.tasks.registry import CLASSIFICATION, SEGMENTATION, TaskSpec
from attnserve_server.tasks.segmentation import AskedSegmentation
from tests.fakes.pass_models import classifier, image_of, numbers, segmenter
from tests.fuzzing import corpus, randomly_edited

IMAGES = list(corpus("image").values())
LIMITS = Limits(100, ImageLimits(max_bytes=100_000, max_pixels=4_000_000))
NUM_FILES, MOST_S = 2_000, 20.0


def prepared(spec: TaskSpec, model: ServedModel, asked: Any) -> bool:
    """Whether a request is accepted."""
    began = time.monotonic()
    try:
        (payload,) = spec.task.prepare(asked, spec.task.check(asked, model, LIMITS), model, LIMITS).payloads
    except InvalidRequest as error:
        assert error.field == "image" or str(error.field).startswith("queries[0]."), error  # noqa: PT017
        assert error.message.isprintable()  # noqa: PT017
        return False
    finally:
        assert time.monotonic() - began < MOST_S
    height, width, _ = image_of(payload).shape
    if "size" in payload.inputs:
        inside = numbers(payload.inputs["size"])
        assert 1 <= inside[0] <= height
        assert 1 <= inside[1] <= width
        assert not image_of(payload)[inside[0] :].any()
        assert not image_of(payload)[:, inside[1] :].any()
    return True


@pytest.mark.timeout(300)
def test_mutated_files_are_prepared_or_refused() -> None:
    segmentation, classification, ends = segmenter(), classifier(), Counter[tuple[str, bool]]()
    for seed in range(NUM_FILES):
        data = randomly_edited(IMAGES, seed)
        asked = AskedSegmentation(data, return_unary=seed % 2 == 0, queries=[(20, 20)] if seed % 3 == 0 else [])
        ends["segmentation", prepared(SEGMENTATION, segmentation, asked)] += 1
        ends["classification", prepared(CLASSIFICATION, classification, AskedClassification(data))] += 1
    assert min(ends.values()) > NUM_FILES // 20, "both ends are common"
    assert sum(ends.values()) == 2 * NUM_FILES
