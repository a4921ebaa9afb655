# SPDX-License-Identifier: Apache-2.0
"""Image files as arrays, attention shown as light on them, and figures as files. Needs the extra ``cli``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]
"""Red, green and blue, uint8 (height, width, 3)."""

_DPI = 100
_DARKEST = 0.22
"""Brightness of a pixel with attention 0."""


def upright(image: bytes, most: int | None = None) -> Pixels:
    """Returns an image file's pixels as the server reads them: rotated by EXIF, transparent areas on white.

    Args:
        image: a JPEG, PNG or WebP file.
        most: pixels of the longer side of the result at most, which is scaled down to that; None for the image's own size.

    Raises:
        OSError: the image cannot be opened.
    """
    file = Image.open(io.BytesIO(image))
    if most is not None:
        file.draft("RGB", (2 * most, 2 * most))
    photo: Image.Image = ImageOps.exif_transpose(file)
    if photo.has_transparency_data:
        layer = photo.convert("RGBA")
        photo = Image.new("RGBA", layer.size, "white")
        photo.alpha_composite(layer)
    photo = photo.convert("RGB")
    if most is not None:
        photo.thumbnail((most, most))
    return np.asarray(photo)


def lit(pixels: Pixels, weights: NDArray[np.float32], most: float | None = None) -> Pixels:
    """Returns an image with the brightness of attention: full at the largest weight.

    Args:
        pixels: the image.
        weights: not negative, (rows, columns); they cover the whole image.
        most: weight of full brightness, if other images have larger ones; None for the largest here.
    """
    light = _DARKEST + (1 - _DARKEST) * stretched(weights / max(most or float(weights.max()), 1e-6), pixels)[..., None]
    shown: Pixels = (pixels * light).astype(np.uint8)
    return shown


def stretched(weights: NDArray[np.float32], pixels: Pixels, extent: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Returns weights at the size of an image, (height, width), interpolated and clipped to 0 to 1.

    Args:
        weights: (rows, columns).
        pixels: the image.
        extent: columns and rows of cells that the image covers, from the upper left corner; None for all.
    """
    box = (0.0, 0.0, *extent) if extent is not None else None
    scaled = Image.fromarray(weights.astype(np.float32)).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC, box)
    clipped: NDArray[np.float32] = np.clip(np.asarray(scaled), 0, 1)
    return clipped


def save(figure: Figure, path: Path) -> tuple[int, int]:
    """Writes a figure to a file, whose suffix selects the format; returns width and height in pixels (of a PNG).

    Raises:
        OSError: the file cannot be written.
    """
    figure.savefig(path, dpi=_DPI)
    width, height = figure.get_size_inches() * _DPI
    return round(width), round(height)
