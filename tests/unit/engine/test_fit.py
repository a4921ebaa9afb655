# SPDX-License-Identifier: Apache-2.0
"""Which size a picture gets, how large it is in it, and which pixel is where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_server.tasks.fit import InputSizes, nearest

SIZES = ((480, 360), (360, 480), (480, 272), (480, 480))
PADDED = InputSizes(SIZES, pads=True)
sides = st.integers(16, 8000)


@pytest.mark.parametrize(
    ("picture", "size", "inside"),
    [
        ((480, 360), (480, 360), (480, 360)),
        ((960, 720), (480, 360), (480, 360)),
        ((3000, 4000), (360, 480), (360, 480)),
        ((1920, 1080), (480, 272), (480, 270)),
        ((100, 100), (480, 480), (480, 480)),
        ((500, 333), (480, 360), (480, 320)),
        ((16, 8000), (360, 480), (1, 480)),
        ((8000, 16), (480, 272), (480, 1)),
        ((20000, 17), (480, 272), (480, 1)),
    ],
)
def test_picture_gets_the_size_with_the_least_padding(
    picture: tuple[int, int], size: tuple[int, int], inside: tuple[int, int]
) -> None:
    fitted = PADDED.fitted(*picture)
    assert (fitted.size, fitted.inside, fitted.original) == (size, inside, picture)


def test_first_of_equal_sizes_is_taken() -> None:
    wide_and_high = ((20, 10), (10, 20))
    assert InputSizes(wide_and_high, pads=True).fitted(30, 30).size == (20, 10)
    assert InputSizes(wide_and_high[::-1], pads=True).fitted(30, 30).size == (10, 20)
    assert InputSizes(((20, 10), (40, 20)), pads=True).fitted(60, 30).size == (20, 10)


def test_stretched_picture_fills_the_size() -> None:
    fitted = InputSizes(((32, 32),)).fitted(640, 480)
    assert fitted.size == fitted.inside == (32, 32)


@settings(deadline=None)
@given(sides, sides)
def test_picture_touches_two_sides_and_keeps_its_aspect_ratio(width: int, height: int) -> None:
    fitted = PADDED.fitted(width, height)
    (most_wide, most_high), (wide, high) = fitted.size, fitted.inside
    assert 1 <= wide <= most_wide
    assert 1 <= high <= most_high
    assert wide == most_wide or high == most_high
    scale = min(most_wide / width, most_high / height)
    assert abs(wide - max(width * scale, 1)) <= 0.5 + 1e-9
    assert abs(high - max(height * scale, 1)) <= 0.5 + 1e-9
    shares = [min(w / width, h / height) ** 2 * width * height / (w * h) for w, h in SIZES]
    assert shares[SIZES.index(fitted.size)] >= max(shares) - 1e-12


def test_sizes_of_a_manifest() -> None:
    declared = manifest_pb2.PictureInput(
        sizes=[manifest_pb2.PictureSize(width=4, height=3), manifest_pb2.PictureSize(width=3, height=4)], fit=manifest_pb2.FIT_PAD
    )
    assert InputSizes.of(declared) == InputSizes(((4, 3), (3, 4)), pads=True)
    declared.fit = manifest_pb2.FIT_STRETCH
    assert not InputSizes.of(declared).pads


@settings(deadline=None)
@given(st.integers(1, 600), st.integers(1, 5000))
def test_nearest_pixel_is_that_of_pillow_but_for_ties(source: int, target: int) -> None:
    """Pillow adds the step up pixel by pixel: at a tie its rounding decides between the two pixels, which are equally near."""
    found = nearest(source, target)
    pillow = np.asarray(Image.fromarray(np.arange(source, dtype=np.int32)[None]).resize((target, 1), Image.Resampling.NEAREST))[0]
    is_tie = (2 * np.arange(target) + 1) * source % (2 * target) == 0
    assert (found[~is_tie] == pillow[~is_tie]).all()
    assert (np.abs(found - pillow) <= 1).all()


@settings(deadline=None)
@given(sides, sides)
def test_pixel_and_its_place_in_the_input_agree_with_the_scaled_map(width: int, height: int) -> None:
    fitted = PADDED.fitted(width, height)
    columns, rows = nearest(fitted.inside[0], width), nearest(fitted.inside[1], height)
    for x in (0, width // 3, width - 1):
        assert fitted.column_of(x) == columns[x] < fitted.inside[0]
    for y in (0, height // 3, height - 1):
        assert fitted.row_of(y) == rows[y] < fitted.inside[1]
