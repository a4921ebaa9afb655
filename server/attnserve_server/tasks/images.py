# SPDX-License-Identifier: Apache-2.0
"""Image files to pixels. Pillow decodes; what is refused is refused before anything large is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from attnserve_server.errors import InvalidRequest
from attnserve_server.request import ImageSource

FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE = 16
"""Pixels: of less there is nothing to see."""
_FIELD = "image"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation: what sets a picture upright."""
_LYING = (5, 6, 7, 8)
"""Orientations whose rows are columns."""
_DRAFT = 2
"""A JPEG is decoded at a scale that leaves at least so many times the pixels of each direction that the model reads."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image file may have at most."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the model reads it, and its width and height in pixels as it is seen."""

    source: ImageSource
    width: int
    height: int


def read_picture(data: bytes, limits: ImageLimits, size: tuple[int, int], num_cells: int) -> Picture:
    """Decodes an image file, turns it as its EXIF says, puts what is transparent on white, and scales it.

    Args:
        data: JPEG, PNG or WebP.
        limits: looked at before pixels are decoded.
        size: width and height that the model reads; the aspect ratio is not kept.
        num_cells: of the model's grid.

    Raises:
        InvalidRequest: it is empty, too large or too small, of another format, animated, or broken.
    """
    if not data:
        raise _refused("must not be empty")
    if len(data) > limits.max_bytes:
        raise _refused(f"must have at most {limits.max_bytes:,} bytes; it has {len(data):,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on files that are odd: what matters is whether it can decode them
        image = _opened(data)
        width, height = _checked_shape(image, limits)
        orientation = _orientation(image)
        try:
            image.draft("RGB", (_DRAFT * size[0], _DRAFT * size[1]))  # of a large JPEG a smaller picture is decoded
            image.load()
            colours = _coloured(image)
            width_height = (size[1], size[0]) if orientation in _LYING else size
            scaled = colours.resize(width_height, Image.Resampling.BICUBIC)
        except Exception as error:  # of a broken file Pillow's decoders may raise anything
            raise _refused(f"cannot be decoded: {_in_short(error)}") from error
    turned = scaled.transpose(_TURNS[orientation]) if orientation in _TURNS else scaled
    seen = (height, width) if orientation in _LYING else (width, height)
    return Picture(ImageSource(turned.tobytes(), num_cells), *seen)


def _opened(data: bytes) -> Image.Image:
    """Reads the header."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _refused("has far too many pixels") from error
    except Exception as error:  # as above
        raise _refused("is no JPEG, PNG or WebP file, or its header is broken") from error


def _checked_shape(image: Image.Image, limits: ImageLimits) -> tuple[int, int]:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise _refused(f"must have at most {limits.max_pixels:,} pixels; it has {width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise _refused(f"must have at least {MIN_SIDE} pixels in each direction; it has {width} x {height}")
    is_still = image.format in ("JPEG", "MPO")  # the further pictures of an MPO are the same photo in other sizes
    if not is_still and getattr(image, "is_animated", False):
        raise _refused("is an animation; send one of its pictures")
    return width, height


def _orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture lies, 1 to 8; 1, upright, where it says nothing that makes sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata is no reason to refuse a picture
        return 1
    return value if value in _TURNS else 1


def _coloured(image: Image.Image) -> Image.Image:
    """Red, green and blue, 8 bits each."""
    if image.mode.startswith("I"):  # 16 bits of grey
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.convert("RGB")


def _refused(text: str) -> InvalidRequest:
    return InvalidRequest(f"{_FIELD} {text}", field=_FIELD)


def _in_short(error: Exception) -> str:
    text = str(error).splitlines()
    return (text[0] if text else type(error).__name__)[:100]
