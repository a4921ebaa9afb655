# SPDX-License-Identifier: Apache-2.0
"""Draws generated images: enlarged, and beside each the same image under the light of its self-attention."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from attnserve_client.generation_types import Generation
from attnserve_client.pictures import Pixels, lit

_TILE = 128
"""Pixels of the longer side of a drawn image."""
_GAP = 6
_COLUMNS = 4
"""Pairs in a row."""
_MARK = (255, 40, 40)


def save_attention(path: Path, answer: Generation) -> None:
    """Writes the picture of :func:`draw_attention`; the file's suffix selects the format.

    Raises:
        ValueError: the answer has no attention, or the suffix is of no format.
        OSError: the file cannot be written.
    """
    Image.fromarray(draw_attention(answer)).save(path)


def draw_attention(answer: Generation) -> Pixels:
    """Draws pairs of each image, with the attending cell marked, and the image in the light of the cell's attention.

    Args:
        answer: requested with ``attention_at``.

    Returns:
        uint8 (height, width, 3), at most four pairs wide.

    Raises:
        ValueError: the answer has no attention.
    """
    if answer.attention is None:
        raise ValueError("the images have no attention: request it with attention_at")
    factor = max(1, _TILE // max(answer.width, answer.height))
    pairs = [
        np.concatenate((_marked(large, answer), lit(large, weights)), 1)
        for large, weights in zip(_enlarged(answer.pixels(), factor), answer.attention.maps, strict=True)
    ]
    height, width, _ = pairs[0].shape
    columns = min(_COLUMNS, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for index, pair in enumerate(pairs):
        top, left = (_GAP + place * (size + _GAP) for place, size in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = pair
    return sheet


def _enlarged(pixels: Pixels, factor: int) -> Pixels:
    """(N, H, W, 3) -> (N, factor H, factor W, 3), by repetition."""
    return pixels.repeat(factor, 1).repeat(factor, 2)


def _marked(image: Pixels, answer: Generation) -> Pixels:
    """Returns a large image with a frame around the attending cell."""
    assert answer.attention is not None
    (row, column), (rows, columns) = answer.attention.cell, answer.attention.maps.shape[1:]
    height, width = image.shape[0] // rows, image.shape[1] // columns
    marked, line = image.copy(), max(1, height // 4)
    cell = marked[row * height : (row + 1) * height, column * width : (column + 1) * width]
    for edge in (cell[:line], cell[-line:], cell[:, :line], cell[:, -line:]):
        edge[...] = _MARK
    return marked
