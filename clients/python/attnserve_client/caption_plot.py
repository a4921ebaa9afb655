# SPDX-License-Identifier: Apache-2.0
"""Draws a caption word by word: the photo, then for every word the photo weighted by its attention (Xu et al. 2015, figure 2)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attnserve_client.attention_plot import INK
from attnserve_client.pictures import Pixels, lit, save, upright
from attnserve_client.types import Caption

_TILE_IN = 1.7
_GAP_IN = 0.12
_WORD_IN = 0.32
_LETTER_IN = 0.1
_TITLE_IN = 0.42
_COLUMNS = 6
_TILE_PIXELS = 320


def save_stories(path: Path, stories: Sequence[tuple[Caption, bytes]]) -> tuple[int, int]:
    """Writes an image of captions, one below the other; the file's suffix selects the format (default: PNG).

    Args:
        path: the file to write; its folder exists.
        stories: captions requested with ``return_attention="mean"``, each with its image file.

    Returns:
        Width and height in pixels (of a PNG).

    Raises:
        ValueError: a caption has no single attention map.
        OSError: the file cannot be written, or an image cannot be opened.
    """
    return save(draw_stories(stories), path)


def draw_stories(stories: Sequence[tuple[Caption, bytes]]) -> Figure:
    """Draws captions, one below the other: the text, then the photo, and the photo weighted by the attention of each word.

    Args:
        stories: as in :func:`save_stories`; at least one.

    Returns:
        The figure, at most six pictures wide.

    Raises:
        ValueError: a caption has no single attention map.
        OSError: an image cannot be opened.
    """
    tiles = [_tiles(caption, image) for caption, image in stories]
    heights = [_TILE_IN * each[0][1].shape[0] / each[0][1].shape[1] for each in tiles]
    rows = [math.ceil(len(each) / _COLUMNS) for each in tiles]
    columns = min(_COLUMNS, max(map(len, tiles)))
    width = columns * (_TILE_IN + _GAP_IN) + _GAP_IN
    tall = sum(_TITLE_IN + count * (height + _WORD_IN) for count, height in zip(rows, heights, strict=True)) + _GAP_IN
    figure = Figure(figsize=(width, tall), facecolor="white")
    FigureCanvasAgg(figure)
    top = tall - _GAP_IN / 2
    for (caption, _), story, height, count in zip(stories, tiles, heights, rows, strict=True):
        title = textwrap.shorten(caption.text, int(width / _LETTER_IN), placeholder=" …")
        figure.text(_GAP_IN / width, (top - 0.27) / tall, title, fontsize=11, fontweight="bold", color=INK)
        top -= _TITLE_IN
        for index, (word, picture) in enumerate(story):
            row, column = divmod(index, _COLUMNS)
            left, bottom = _GAP_IN + column * (_TILE_IN + _GAP_IN), top - (row + 1) * (height + _WORD_IN)
            figure.text(left / width, (bottom + height + 0.06) / tall, word, fontsize=9, color=INK)
            axes = figure.add_axes((left / width, bottom / tall, _TILE_IN / width, height / tall))
            axes.imshow(picture, aspect="auto")
            axes.set_axis_off()
        top -= count * (height + _WORD_IN)
    return figure


def _tiles(caption: Caption, image: bytes) -> list[tuple[str, Pixels]]:
    """Returns pairs of word and picture: the photo with an empty word, then the photo weighted by the map of each word. The longer
    side is at most ``_TILE_PIXELS``.
    """
    pixels = upright(image, _TILE_PIXELS)
    return [("", pixels), *((each.word, lit(pixels, each.weights)) for each in caption.word_maps())]
