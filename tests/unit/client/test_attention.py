# SPDX-License-Identifier: Apache-2.0
"""Display of attention: in a terminal, and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from attnserve_client import FinishReason, Hypothesis, Piece, ScoreNormalization, Timings, Translation
from attnserve_client.attention_plot import DPI, draw_attention, save_attention
from attnserve_client.attention_text import AttentionText

WEIGHTS = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], dtype=np.float32)
SOURCE, TARGET = ["a", "dog", "</s>"], ["Hund", "</s>"]


def rendered(weights: np.ndarray, source: list[str], target: list[str], width: int = 60, color: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="truecolor" if color else None)
    console.print(AttentionText(weights, source, target))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_terminal_map() -> None:
    assert rendered(WEIGHTS, SOURCE, TARGET) == [
        "            <",
        "         d  /",
        "         o  s",
        "      a  g  >",
        "Hund ███",
        "</s> ░░░░░░▒▒▒",
        "     0 ░░▒▒▓▓██ 0.90",
    ]


def test_terminal_map_has_colors_where_there_are_some() -> None:
    assert "\x1b[" in "".join(rendered(WEIGHTS, SOURCE, TARGET, color=True))


def test_wide_maps_get_narrow_cells_then_bands() -> None:
    weights = np.eye(40, dtype=np.float32)
    labels = [str(index % 10) for index in range(40)]
    assert max(map(len, rendered(weights, labels, labels, width=50))) <= 50
    lines = rendered(weights, labels, labels, width=30)
    assert max(map(len, lines)) <= 30
    assert len(lines) == 2 * (1 + 40) + 1
    assert sum(line.count("█") for line in lines) == 40 + 2


def test_long_labels_are_cut() -> None:
    lines = rendered(WEIGHTS, ["a" * 30, "b", "c"], ["x" * 30, "y"])
    assert len(lines) == 12 + 2 + 1
    assert any("x" * 15 + "… " in line for line in lines)


def test_no_weight_at_all() -> None:
    assert len(rendered(np.zeros((1, 1), dtype=np.float32), ["a"], ["b"])) == 3


def test_maps_must_fit_their_labels() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        AttentionText(WEIGHTS, SOURCE, ["one"])
    with pytest.raises(ValueError, match="do not fit"):
        draw_attention(WEIGHTS, source=SOURCE, target=["one"])


def translation(attention: np.ndarray | None) -> Translation:
    pieces = (Piece("Hund", 0, 4), Piece("", 4, 4))
    hypothesis = Hypothesis("Hund", pieces, -1.0, ScoreNormalization.LENGTH, FinishReason.STOP, attention)
    source = (Piece("a", 0, 1), Piece(" dog", 1, 5), Piece("", 5, 5))
    return Translation((hypothesis,), source, "fake-en-de", "1", Timings(0, 0, 0, 0))


def test_picture(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    size = save_attention(path, translation(WEIGHTS))
    with Image.open(path) as picture:
        assert picture.size == size
        colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colors) > 50


def test_picture_grows_with_the_map() -> None:
    small = draw_attention(WEIGHTS, source=SOURCE, target=TARGET).get_size_inches() * DPI
    large = draw_attention(np.eye(30, dtype=np.float32), source=["word"] * 30, target=["wort"] * 30).get_size_inches() * DPI
    assert np.all(large > small)
    assert large[0] > 30 * 40


def test_attention_of_one_map_is_needed(tmp_path: Path) -> None:
    for attention in (None, np.zeros((1, 1, 2, 3), dtype=np.float32)):
        with pytest.raises(ValueError, match="return_attention"):
            save_attention(tmp_path / "map.png", translation(attention))


def test_translations_compare_without_their_arrays() -> None:
    assert translation(WEIGHTS) == translation(None)
