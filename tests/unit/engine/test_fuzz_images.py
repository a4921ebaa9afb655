# SPDX-License-Identifier: Apache-2.0
"""Mutated image files: pixels of the model's size or ``InvalidRequest``, in bounded time; nothing else is raised."""

from __future__ import annotations

import struct
import time
import zlib

import pytest
from PIL import Image

from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import ImageLimits, read_picture
from tests.fuzzing import ENOUGH, campaign, corpus, mutated, scales
from tests.photos import FOLDER, encoded

IMAGES = corpus("image")
REFUSED = ("gif.hex", "png-animated.hex", "webp-animated.hex")
LIMITS, SIZE = ImageLimits(max_bytes=100_000, max_pixels=4_000_000), (32, 24)
SIZES = InputSizes((SIZE,))
MOST_S = 20.0
"""Time after which one file is taken for a hang."""


def read(data: bytes) -> bool:
    """Whether the file is accepted."""
    began = time.monotonic()
    try:
        picture = read_picture(data, LIMITS, SIZES)
    except InvalidRequest as error:
        accepted, message = False, error.message
        assert error.field == "image"  # noqa: PT017
        assert message.isprintable()
        assert len(message) < 300
    else:
        accepted = True
        assert len(picture.pixels) == 3 * SIZE[0] * SIZE[1]
        assert min(picture.width, picture.height) >= 16
        assert picture.width * picture.height <= LIMITS.max_pixels
    assert time.monotonic() - began < MOST_S
    return accepted


@pytest.mark.parametrize("name", IMAGES)
def test_kept_image_is_read_or_refused(name: str) -> None:
    assert read(IMAGES[name]) == (name not in REFUSED)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.xfail(reason="tasks/images.py repeats Pillow's message, which has the name of a broken chunk", strict=True)
def test_error_has_no_bytes_of_the_image() -> None:
    png = encoded(Image.new("RGB", (16, 16), "red"), "PNG")
    at = png.index(b"IDAT") - 4
    size = int.from_bytes(png[at : at + 4], "big")
    pixels, end = png[at + 8 : at + 8 + size], png[at + 12 + size :]
    broken = png[:at] + chunk(b"IDAT", pixels[:10]) + chunk(b"Qz!7", b"") + chunk(b"IDAT", pixels[10:]) + end
    with pytest.raises(InvalidRequest) as raised:
        read_picture(broken, LIMITS, SIZES)
    assert "Qz!7" not in raised.value.message


@scales
@pytest.mark.timeout(600)
def test_mutated_image_is_read_or_refused(scale: float) -> None:
    photo = Image.open(FOLDER / "coffee.jpg").convert("RGB").resize((96, 64))
    larger = [encoded(photo, "JPEG", quality=60), encoded(photo, "PNG"), encoded(photo, "WEBP", quality=60)]
    accepted = [0, 0]

    def check(data: bytes) -> None:
        accepted[read(data)] += 1

    campaign(mutated([*IMAGES.values(), *larger]) | mutated(list(IMAGES.values()), 1), check, 8, scale)
    assert sum(accepted) < ENOUGH or min(accepted) > 0.02 * sum(accepted), accepted
