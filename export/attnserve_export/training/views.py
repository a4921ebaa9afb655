# SPDX-License-Identifier: Apache-2.0
"""Altered views of a training picture.

The pictures of the data sets are JPEGs of one quality. A model that is trained on them alone takes the traces of that compression
for a part of every picture and fails on pictures without them. So a share of the training pictures is blurred, rescaled,
recoloured or compressed again. The limits depend on the size of the pictures.
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
    """How far a view may be from its picture."""

    blur: Range
    """Radius of the Gaussian blur, in pixels."""
    shrink: Range
    """Scale to which a picture is reduced before it is enlarged again."""
    colour: Range = (0.75, 1.25)
    """Factor of brightness, contrast and saturation, each drawn for itself."""
    compressed: float = 0.4
    """Share of the views that are compressed again."""
    quality: tuple[int, int] = (30, 95)
    """JPEG quality."""


PHOTOS = Limits(blur=(0.4, 1.6), shrink=(0.45, 0.9))
"""For pictures of about 112 to 480 pixels a side."""
SMALL = Limits(blur=(0.2, 0.7), shrink=(0.6, 0.95), quality=(50, 95))
"""For pictures of 32 pixels a side."""


def altered(picture: Image.Image, rng: random.Random, limits: Limits = PHOTOS) -> Image.Image:
    """A view of the same size: with equal probability blurred, rescaled, median-filtered or none of these; then recoloured."""
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
    """By name, changes of moderate strength that remove the traces of compression. A model is tested on pictures changed so, since
    it must not depend on those traces.
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
