# SPDX-License-Identifier: Apache-2.0
"""Draws a classification: the photo, and for each block its spatial map over the photo above its channel weights."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attnserve_client.attention_plot import INK
from attnserve_client.pass_types import BlockAttention, Classification
from attnserve_client.pictures import Pixels, lit, save, upright

_TILE_IN = 1.7
_GAP_IN = 0.14
_LABEL_IN = 0.3
_BARS_IN = 0.55
_TITLE_IN = 0.42
_COLUMNS = 5
_LETTER_IN = 0.1
_TILE_PIXELS = 320
_BAR = "#4a6fd4"


def save_maps(path: Path, answers: Sequence[tuple[Classification, bytes]]) -> tuple[int, int]:
    """Writes the picture of :func:`draw_maps`; the file's suffix selects the format (default: PNG).

    Returns:
        Width and height in pixels (of a PNG).

    Raises:
        ValueError: a classification has no attention.
        OSError: the file cannot be written, or an image cannot be opened.
    """
    return save(draw_maps(answers), path)


def draw_maps(answers: Sequence[tuple[Classification, bytes]]) -> Figure:
    """Draws classifications, one below the other: the classes, then the photo, and a tile for each block.

    A tile is the photo, dark where the block's spatial factor is smallest, bright where it is largest, above the factor of each
    channel from 0 to 1. A block without a spatial map has the photo as it is.

    Args:
        answers: classifications requested with ``return_attention=True``, each with its image file; at least one.

    Returns:
        The figure, at most five tiles wide.

    Raises:
        ValueError: a classification has no attention.
        OSError: an image cannot be opened.
    """
    if not all(answer.attention for answer, _ in answers):
        raise ValueError("a classification has no attention: request it with return_attention=True")
    photos = [upright(image, _TILE_PIXELS) for _, image in answers]
    heights = [_TILE_IN * photo.shape[0] / photo.shape[1] + _LABEL_IN + _BARS_IN for photo in photos]
    rows = [math.ceil((1 + len(answer.attention)) / _COLUMNS) for answer, _ in answers]
    columns = min(_COLUMNS, 1 + max(len(answer.attention) for answer, _ in answers))
    width = columns * (_TILE_IN + _GAP_IN) + _GAP_IN
    tall = sum(_TITLE_IN + count * height for count, height in zip(rows, heights, strict=True)) + _GAP_IN
    figure = Figure(figsize=(width, tall), facecolor="white")
    FigureCanvasAgg(figure)
    top = tall - _GAP_IN / 2
    for (answer, _), photo, height, count in zip(answers, photos, heights, rows, strict=True):
        title = ", ".join(f"{each.name} {100 * each.probability:.1f} %" for each in answer.classes)
        title = textwrap.shorten(title, int(width / _LETTER_IN), placeholder=" …")
        figure.text(_GAP_IN / width, (top - 0.27) / tall, title, fontsize=11, fontweight="bold", color=INK)
        top -= _TITLE_IN
        for index, block in enumerate((None, *answer.attention)):
            row, column = divmod(index, _COLUMNS)
            _draw_tile(figure, (_GAP_IN + column * (_TILE_IN + _GAP_IN), top - row * height), photo, block)
        top -= count * height
    return figure


def _draw_tile(figure: Figure, corner: tuple[float, float], photo: Pixels, block: BlockAttention | None) -> None:
    """Draws a block's maps, or the photo alone; ``corner`` is the upper left one, in inches."""
    width, tall = figure.get_size_inches()
    left, height = corner[0], _TILE_IN * photo.shape[0] / photo.shape[1]
    bottom = corner[1] - _LABEL_IN - height
    picture, label = photo, ""
    if block is not None:
        label = block.block
        if block.spatial is not None:
            low, high = float(block.spatial.min()), float(block.spatial.max())
            picture = lit(photo, (block.spatial - low) if high > low else np.ones_like(block.spatial))
            label = f"{block.block}: {low:.2f}-{high:.2f}"
    figure.text(left / width, (bottom + height + 0.06) / tall, label, fontsize=8, color=INK)
    axes = figure.add_axes((left / width, bottom / tall, _TILE_IN / width, height / tall))
    axes.imshow(picture, aspect="auto")
    axes.set_axis_off()
    if block is None or block.channels is None:
        return
    bars = figure.add_axes((left / width, (bottom - 0.9 * _BARS_IN) / tall, _TILE_IN / width, 0.8 * _BARS_IN / tall))
    bars.bar(np.arange(block.channels.size), block.channels, width=1.0, color=_BAR)
    bars.set_xlim(-0.5, block.channels.size - 0.5)
    bars.set_ylim(0, 1)
    bars.set_xticks([])
    bars.set_yticks([0, 1])
    bars.tick_params(labelsize=5, length=1.5, pad=1, colors=INK)
    bars.spines[["top", "right"]].set_visible(False)
