# SPDX-License-Identifier: Apache-2.0
"""Draws a segmentation and its attention: the classes' colours over the photo, the unary map, and the map of each query."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from attnserve_client.attention_plot import INK
from attnserve_client.pass_types import ClassArea, PairwiseMap, Segmentation
from attnserve_client.pictures import Pixels, save, stretched, upright

_TILE_IN = 3.4
_GAP_IN = 0.12
_TITLE_IN = 0.3
_LEGEND_ROW_IN = 0.24
_LEGEND_COLUMN_IN = 1.7
_COLUMNS = 3
_TILE_PIXELS = 680
_MARK = "#5de6ff"
_TOP_QUANTILE, _MOST_OVER_TOP = 0.99, 4.0
"""The brightest colour is that of this quantile of a map's weights, or of a fourth of the largest weight if that is more."""


def save_class_map(path: Path, segmentation: Segmentation) -> None:
    """Writes the class map as an indexed PNG file whose palette has the classes' colours; a pixel's index is its class.

    Raises:
        OSError: the file cannot be written.
        ValueError: the suffix names a format that has no palette.
    """
    if path.suffix.lower() not in (".png", ""):
        raise ValueError(f"a class map is written as PNG, not as {path.suffix}")
    indexed = Image.fromarray(segmentation.class_map).convert("P")
    indexed.putpalette([part for each in segmentation.classes for part in each.colour])
    indexed.save(path, "PNG", optimize=True)


def save_overlay(path: Path, segmentation: Segmentation, image: bytes) -> None:
    """Writes the photo under the classes' colours, at its own size; the file's suffix selects the format.

    Raises:
        OSError: the file cannot be written, or the image cannot be opened.
        ValueError: the image is not the one that was segmented, or the format is not supported.
    """
    Image.fromarray(segmentation.overlay(upright(image))).save(path)


def save_attention(path: Path, segmentation: Segmentation, image: bytes) -> tuple[int, int]:
    """Writes the picture of :func:`draw_attention`; the file's suffix selects the format (default: PNG).

    Returns:
        Width and height in pixels (of a PNG).

    Raises:
        ValueError: the segmentation has no attention.
        OSError: the file cannot be written, or the image cannot be opened.
    """
    return save(draw_attention(segmentation, image), path)


def draw_attention(segmentation: Segmentation, image: bytes) -> Figure:
    """Draws the segmentation with its legend and the queries' pixels, the unary map, and the pairwise map of each query.

    Args:
        segmentation: requested with ``return_unary=True`` or ``queries``.
        image: its image file.

    Returns:
        The figure, two or three pictures wide.

    Raises:
        ValueError: the segmentation has no attention.
        OSError: the image cannot be opened.
    """
    attention = segmentation.attention
    if attention is None:
        raise ValueError("the segmentation has no attention: request it with return_unary=True or queries")
    pixels = upright(image, _TILE_PIXELS)
    extent = segmentation.width / attention.cell_width, segmentation.height / attention.cell_height
    tiles = [("classes", _coloured(segmentation, pixels), attention.pairwise)]
    if attention.unary is not None:
        tiles.append(("unary: what all pixels attend to", _heated(pixels, attention.unary, extent), ()))
    for number, each in enumerate(attention.pairwise, 1):
        label = f"pairwise: query {number} at ({each.query[0]}, {each.query[1]})"
        tiles.append((label, _heated(pixels, each.weights, extent), (each,)))
    return _laid_out(tiles, segmentation)


def _heated(pixels: Pixels, weights: NDArray[np.float32], extent: tuple[float, float]) -> Pixels:
    """Returns the grey photo under the colours of a map: bright for large weights. A few largest weights may share one colour."""
    top = max(float(np.quantile(weights, _TOP_QUANTILE)), float(weights.max()) / _MOST_OVER_TOP, 1e-12)
    colours = 255 * colormaps["inferno"](stretched(weights / top, pixels, extent))[..., :3]
    grey = pixels.mean(-1, keepdims=True)
    heated: Pixels = np.rint(0.35 * grey + 0.65 * colours).astype(np.uint8)
    return heated


def _coloured(segmentation: Segmentation, pixels: Pixels) -> Pixels:
    """Returns the overlay at the size of ``pixels``."""
    size = pixels.shape[1::-1]
    colours = np.asarray(Image.fromarray(segmentation.coloured()).resize(size, Image.Resampling.NEAREST))
    return np.rint(0.45 * pixels + 0.55 * colours).astype(np.uint8)


def _laid_out(tiles: list[tuple[str, Pixels, tuple[PairwiseMap, ...]]], segmentation: Segmentation) -> Figure:
    columns = 2 if len(tiles) in (2, 4) else _COLUMNS
    rows = math.ceil(len(tiles) / columns)
    tile_height = _TILE_IN * tiles[0][1].shape[0] / tiles[0][1].shape[1]
    width = columns * (_TILE_IN + _GAP_IN) + _GAP_IN
    per_row = max(1, int(width / _LEGEND_COLUMN_IN))
    legend_in = _LEGEND_ROW_IN * (0.5 + math.ceil(len(segmentation.present) / per_row))
    tall = rows * (tile_height + _TITLE_IN) + legend_in
    figure = Figure(figsize=(width, tall), facecolor="white")
    FigureCanvasAgg(figure)
    numbers = {id(each): number for number, each in enumerate(tiles[0][2], 1)}
    for index, (title, picture, queries) in enumerate(tiles):
        row, column = divmod(index, columns)
        left, bottom = _GAP_IN + column * (_TILE_IN + _GAP_IN), tall - (row + 1) * (tile_height + _TITLE_IN)
        figure.text(left / width, (bottom + tile_height + 0.07) / tall, title, fontsize=9, color=INK)
        axes = figure.add_axes((left / width, bottom / tall, _TILE_IN / width, tile_height / tall))
        axes.imshow(picture, aspect="auto")
        axes.set_axis_off()
        scale = picture.shape[1] / segmentation.width
        for each in queries:
            _mark(axes, each, numbers[id(each)], scale)
    figure.legend(
        handles=[_entry(each) for each in segmentation.present],
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=per_row,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return figure


def _mark(axes: Axes, each: PairwiseMap, number: int, scale: float) -> None:
    """Marks a query's pixel in a picture that is ``scale`` times as wide as the image."""
    x, y = (each.query[0] + 0.5) * scale, (each.query[1] + 0.5) * scale
    axes.plot([x], [y], marker="o", markersize=7, markerfacecolor=_MARK, markeredgecolor="black", markeredgewidth=1.0)
    axes.annotate(str(number), (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9, fontweight="bold", color=_MARK)


def _entry(each: ClassArea) -> Patch:
    red, green, blue = (part / 255 for part in each.colour)
    return Patch(facecolor=(red, green, blue), edgecolor=INK, linewidth=0.4, label=f"{each.name} {100 * each.share:.1f} %")
