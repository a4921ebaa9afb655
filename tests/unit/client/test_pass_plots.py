# SPDX-License-Identifier: Apache-2.0
"""The pictures of segmentations and classifications."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from attnserve_client.class_map_text import ClassMapText, coarse, letters_of
from attnserve_client.classification_plot import draw_maps, save_maps
from attnserve_client.pictures import upright
from attnserve_client.segmentation_plot import draw_attention, save_attention, save_class_map, save_overlay
from tests.fakes.single_pass import class_map_of
from tests.unit.client.pictures import file_of

WHITE = file_of("white", (60, 40))


def test_a_class_map_is_an_indexed_png(client: Any, tmp_path: Path) -> None:
    answer = client.segment(WHITE)
    save_class_map(tmp_path / "map.png", answer)
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == class_map_of(60, 40)).all()
        assert (np.asarray(image.convert("RGB")) == answer.coloured()).all()
    with pytest.raises(ValueError, match="as PNG, not as"):
        save_class_map(tmp_path / "map.jpg", answer)


def test_an_overlay_has_the_size_of_the_photo(client: Any, tmp_path: Path) -> None:
    answer = client.segment(WHITE)
    save_overlay(tmp_path / "overlay.png", answer, WHITE)
    with Image.open(tmp_path / "overlay.png") as image:
        assert (np.asarray(image) == answer.overlay(upright(WHITE))).all()
    with pytest.raises(ValueError, match="has the shape"):
        save_overlay(tmp_path / "overlay.png", answer, file_of(size=(5, 5)))


def test_an_upright_image_is_rotated_and_on_white() -> None:
    file = io.BytesIO()
    picture = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # orientation: rotated by a quarter
    picture.save(file, "PNG", exif=exif)
    assert upright(file.getvalue()).shape == (4, 2, 3)
    assert upright(file.getvalue()).min() == 255
    assert upright(file_of(size=(100, 50)), 20).shape == (10, 20, 3)


def test_attention_is_lit_at_its_cells(client: Any, tmp_path: Path) -> None:
    answer = client.segment(WHITE, return_unary=True, queries=[(58, 38), (30, 20)])
    figure = draw_attention(answer, WHITE)
    classes, unary, first, second = (np.asarray(axes.images[0].get_array()) for axes in figure.axes)
    assert classes[0, 0].tolist() == [185, 185, 255]
    assert unary[:4, :4].mean() > 1.5 * unary[20:, 30:].mean()
    assert first[-4:, -4:].mean() > 1.5 * first[:20, :30].mean()
    assert second[18:22, 28:32].mean() > 1.5 * second[:10, :10].mean()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Sky 50.0 %", "Road 50.0 %"]
    size = save_attention(tmp_path / "maps.png", answer, WHITE)
    with Image.open(tmp_path / "maps.png") as image:
        assert np.abs(np.subtract(image.size, size)).max() <= 1


def test_a_map_whose_last_cells_reach_beyond_the_image_is_cut(client: Any) -> None:
    photo = file_of("white", (58, 40))  # 15 columns of 4 pixels, of which the last one is half outside
    answer = client.segment(photo, queries=[(57, 20)])
    lit = np.asarray(draw_attention(answer, photo).axes[1].images[0].get_array())
    assert lit[20, :, 0].argmax() >= 55


def test_pictures_need_attention(client: Any) -> None:
    with pytest.raises(ValueError, match="return_unary"):
        draw_attention(client.segment(WHITE), WHITE)
    with pytest.raises(ValueError, match="return_attention"):
        draw_maps([(client.classify_image(WHITE), WHITE)])


def test_maps_of_blocks(client: Any, tmp_path: Path) -> None:
    answer = client.classify_image(WHITE, return_attention=True)
    figure = draw_maps([(answer, WHITE)] * 2)
    assert len(figure.axes) == 2 * (3 + 2)  # the photo and two blocks; channel weights of two
    photo, spatial = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[:2])
    assert photo.min() == 255
    assert spatial[-5:, -5:].mean() > 2 * spatial[:5, :5].mean()
    assert [bar.get_height() for bar in figure.axes[2].patches] == [0.5, 0.25]
    without = np.asarray(figure.axes[3].images[0].get_array())
    assert without.min() == 255
    size = save_maps(tmp_path / "maps.png", [(answer, WHITE)])
    with Image.open(tmp_path / "maps.png") as image:
        assert np.abs(np.subtract(image.size, size)).max() <= 1


def test_a_coarse_map_has_the_most_frequent_class_of_each_cell() -> None:
    found = np.array([[0, 0, 1, 2], [0, 1, 1, 2]], np.uint8)
    assert coarse(found, 1, 2).tolist() == [[0, 1]]
    assert coarse(found, 4, 4).tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 1, 2]]


def test_letters_are_different() -> None:
    assert letters_of(["Pole", "Road", "Pavement", "Pedestrian", "P", ""]) == ["P", "R", "A", "E", "p", "a"]
    assert letters_of(["x"] * 70)[-1] == "?"


def test_a_class_map_in_the_terminal_has_two_cells_in_each_character(client: Any) -> None:
    answer = client.segment(file_of(size=(8, 12)))
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="truecolor", width=80).print(ClassMapText(answer, 4))
    lines = file.getvalue().splitlines()
    assert len(lines) == 3  # 4 columns × 12 / 8 / 2
    assert lines[1].count("38;2;128;128;255") == lines[1].count("48;2;128;64;128") == 4
