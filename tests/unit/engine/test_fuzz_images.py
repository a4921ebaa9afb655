# SPDX-License-Identifier: Apache-2.0
"""Mutated image files: pixels of the model's size or ``InvalidRequest``, in bounded time; nothing else is raised."""

from __future__ import annotations

import time

import pytest
from PIL import Image

from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks.images import ImageLimits, read_picture
from tests.fuzzing import campaign, corpus, mutated, scales
from tests.photos import FOLDER, encoded

IMAGES = corpus("image")
REFUSED = ("gif.hex", "png-animated.hex", "webp-animated.hex")
LIMITS, SIZE, CELLS = ImageLimits(max_bytes=100_000, max_pixels=4_000_000), (32, 24), 6
MOST_S = 20.0
"""Time after which one file is taken for a hang."""


def read(data: bytes) -> bool:
    """Whether the file is accepted."""
    began = time.monotonic()
    try:
        picture = read_picture(data, LIMITS, SIZE, CELLS)
    except InvalidRequest as error:
        accepted, message = False, error.message
        assert error.field == "image"  # noqa: PT017
        assert message.isprintable()
        assert len(message) < 300
    else:
        accepted = True
        assert len(picture.source.pixels) == 3 * SIZE[0] * SIZE[1]
        assert min(picture.width, picture.height) >= 16
        assert picture.width * picture.height <= LIMITS.max_pixels
    assert time.monotonic() - began < MOST_S
    return accepted


@pytest.mark.parametrize("name", IMAGES)
def test_kept_image_is_read_or_refused(name: str) -> None:
    assert read(IMAGES[name]) == (name not in REFUSED)


@scales
@pytest.mark.timeout(600)
def test_mutated_image_is_read_or_refused(scale: float) -> None:
    photo = Image.open(FOLDER / "coffee.jpg").convert("RGB").resize((96, 64))
    larger = [encoded(photo, "JPEG", quality=60), encoded(photo, "PNG"), encoded(photo, "WEBP", quality=60)]
    accepted = [0, 0]

    def check(data: bytes) -> None:
        accepted[read(data)] += 1

    campaign(mutated([*IMAGES.values(), *larger]) | mutated(list(IMAGES.values()), 1), check, 10, scale)
    assert min(accepted) > 0.02 * sum(accepted), accepted
