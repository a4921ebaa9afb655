# SPDX-License-Identifier: Apache-2.0
"""Altered views of a training image.

The images of the data sets are JPEGs of one quality. A model trained on them alone learns their compression artefacts and fails
on images without them. So a share of the training images is blurred, rescaled, recoloured or compressed again. The limits
depend on the size of the images.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the changes."""

    blur: Range
    """Radius of the Gaussian blur, in pixels."""
    shrink: Range
    """Scale to which an image is reduced before it is enlarged again."""
    colour: Range = (0.75, 1.25)
    """Factor of brightness, contrast and saturation, drawn independently."""
    compressed: float = 0.4
    """Share of views that are compressed again."""
    quality: tuple[int, int] = (30, 95)
    """JPEG quality."""


PHOTOS = Limits(blur=(0.4, 1.6), shrink=(0.45, 0.9))
"""For images of about 112 to 480 pixels a side."""
SMALL = Limits(blur=(0.2, 0.7), shrink=(0.6, 0.95), quality=(50, 95))
"""For images of 32 pixels a side."""


def altered(picture: Image.Image, rng: random.Random, limits: Limits = PHOTOS) -> Image.Image:
    """Returns a view of the same size: blurred, rescaled, median-filtered or none, with equal probability; then recoloured."""
    size, kind = picture.size, rng.randrange(4)
    if kind == 0:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*limits.blur)))
    elif kind == 1:
        scale = rng.uniform(*limits.shrink)
        smaller = (round(size[0] * scale), round(size[1] * scale))
        picture = picture.resize(smaller, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    elif kind == 2:
        picture = picture.filter(ImageFilter.MedianFilter(3))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(*limits.colour))
    if rng.random() < limits.compressed:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=rng.randint(*limits.quality))
        picture = Image.open(file).convert("RGB")
    return picture


def cleaned(limits: Limits) -> dict[str, Callable[[Image.Image], Image.Image]]:
    """Returns, by name, changes of moderate strength that remove compression artefacts. A model is also tested on images changed
    this way, since it must not depend on the artefacts.
    """
    radius, scale = sum(limits.blur) / 2, sum(limits.shrink) / 2

    def rescaled(picture: Image.Image) -> Image.Image:
        smaller = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BOX)
        return smaller.resize(picture.size, Image.Resampling.BICUBIC)

    return {
        "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(radius)),
        "rescaled": rescaled,
        "denoised": lambda picture: picture.filter(ImageFilter.MedianFilter(3)),
    }
