# SPDX-License-Identifier: Apache-2.0
"""Class maps at the image's size: their forms say the same, and shares are those of the pixels that are sent."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from attnserve_server.tasks.class_map import ClassMap
from tests.photos import FOLDER

PALETTE = bytes(range(3 * 11))
Bytes = NDArray[np.uint8]
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)


def random_map(shape: tuple[int, int], seed: int, num_classes: int = 11) -> tuple[Bytes, Bytes]:
    """A class map in which runs are common, and confidences."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, num_classes, shape).astype(np.uint8)
    return np.where(rng.random(shape) < 0.6, classes[:, :1], classes), rng.integers(0, 256, shape).astype(np.uint8)


def scaled(values: Bytes, size: tuple[int, int]) -> Bytes:
    """Nearest scaling as it is defined: the pixel in which the centre of the target's pixel lies, the later one at a border."""
    (height, width), (columns, rows) = values.shape, size
    found = np.empty((rows, columns), np.uint8)
    for y in range(rows):
        for x in range(columns):
            found[y, x] = values[(2 * y + 1) * height // (2 * rows), (2 * x + 1) * width // (2 * columns)]
    return found


@settings(max_examples=60, deadline=None)
@given(shapes, shapes, seeds, st.integers(1, 11))
def test_every_form_is_the_scaled_map(shape: tuple[int, int], size: tuple[int, int], seed: int, num_classes: int) -> None:
    classes, _ = random_map(shape, seed, num_classes)
    made, expected = ClassMap(classes, size), scaled(classes, size)
    assert (made.full == expected).all()
    assert made.raw() == expected.tobytes()
    runs = made.runs()
    assert (np.repeat(runs.classes, runs.lengths) == expected.reshape(-1)).all()
    assert (runs.lengths > 0).all()
    assert (runs.classes[1:] != runs.classes[:-1]).all(), "runs are as long as they can be"
    file = Image.open(io.BytesIO(made.png(PALETTE)))
    assert (file.format, file.mode, file.size) == ("PNG", "P", size)
    assert (np.asarray(file) == expected).all()


@settings(max_examples=60, deadline=None)
@given(shapes, shapes, seeds, st.integers(1, 11))
def test_shares_and_confidences_are_those_of_the_scaled_map(
    shape: tuple[int, int], size: tuple[int, int], seed: int, num_classes: int
) -> None:
    classes, confidence = random_map(shape, seed, num_classes)
    full, probabilities = scaled(classes, size), scaled(confidence, size) / 255
    areas = ClassMap(classes, size).areas(confidence)
    assert [each.index for each in areas] == list(range(classes.max() + 1))
    for each in areas:
        is_class = full == each.index
        assert each.share == is_class.sum() / full.size, "exact"
        assert each.confidence == pytest.approx(probabilities[is_class].mean() if is_class.any() else 0.0, abs=1e-12)
    assert sum(each.share for each in areas) == pytest.approx(1.0)


def test_palette_of_the_file_has_the_colours_of_the_classes() -> None:
    classes = np.arange(11, dtype=np.uint8)[None]
    file = Image.open(io.BytesIO(ClassMap(classes, (11, 1)).png(PALETTE)))
    assert file.convert("RGB").tobytes() == PALETTE


@pytest.mark.parametrize("num_classes", [1, 2, 16, 17, 256])
def test_number_of_classes(num_classes: int) -> None:
    palette = np.random.default_rng(0).integers(0, 256, 3 * num_classes).astype(np.uint8).tobytes()
    classes = np.arange(num_classes, dtype=np.uint8).reshape(1, -1)
    made = ClassMap(classes, (num_classes, 1))
    assert Image.open(io.BytesIO(made.png(palette))).convert("RGB").tobytes() == palette
    assert [each.share for each in made.areas(np.full_like(classes, 255))] == [1 / num_classes] * num_classes
    assert {each.confidence for each in made.areas(np.full_like(classes, 255))} == {1.0}


def test_map_is_not_copied_where_its_size_is_that_of_the_image() -> None:
    classes, _ = random_map((360, 480), 0)
    assert np.shares_memory(ClassMap(classes, (480, 360)).full, classes)


@pytest.mark.load
def test_png_of_a_large_photo_takes_less_time_than_a_plain_one_and_few_bytes() -> None:
    photo = Image.open(FOLDER / "astronaut.jpg").convert("L").resize((480, 360))
    made = ClassMap(np.asarray(photo) // 64, (4000, 3000))
    assert made.full.shape == (3000, 4000)
    started = time.process_time()
    png = made.png(PALETTE)
    seconds = time.process_time() - started
    image, file, started = Image.fromarray(made.full), io.BytesIO(), time.process_time()
    image.save(file, "PNG")
    assert seconds < 0.5 * (time.process_time() - started)
    assert len(png) < 0.05 * made.full.size
