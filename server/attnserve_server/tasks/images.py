# SPDX-License-Identifier: Apache-2.0
"""Decodes image files to pixels with Pillow. Limits are checked before the pixels are decoded."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image

from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks import png
from attnserve_server.tasks.fit import Fitted, InputSizes

FORMATS = ("JPEG", "PNG", "WEBP")
_BEGINS = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(re.escape(png.SIGNATURE)),
    "WebP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""How files of a format begin."""
MIN_SIDE = 16
"""Minimum width and height in pixels."""
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
"""Transposition that makes an image upright, by EXIF orientation."""
_LYING = (5, 6, 7, 8)
"""Orientations that swap width and height."""
_JPEG_END = b"\xff\xd9"
_NOISE = b"\x55" * 64
_BLOCK, _NUM_BLOCKS = 1 << 20, 16
"""Size in bytes of the blocks in which Pillow keeps pixels, and number of free blocks that it does not return to the system.

With memory that is new for each image, a third of the time of decoding 480 x 360 pixels goes to the system's page faults.
"""
_pillow = cast(Any, Image).core  # not in Pillow's types; its page "Block allocator" describes it
_pillow.set_block_size(_BLOCK)
_pillow.set_blocks_max(_NUM_BLOCKS)
_DRAFT = 2
"""A JPEG is decoded at a reduced scale of at least this many times the width and height that the model gets."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of an image file."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Picture:
    """An image for the model: its pixels (height, width, 3) as bytes, and the sizes of the input and of the upright original."""

    pixels: bytes
    fitted: Fitted

    @property
    def width(self) -> int:
        """Width of the upright original in pixels."""
        return self.fitted.original[0]

    @property
    def height(self) -> int:
        """Height of the upright original in pixels."""
        return self.fitted.original[1]


def _accept(width: int, height: int) -> None:
    del width, height


def read_picture(data: bytes, limits: ImageLimits, sizes: InputSizes, check: Callable[[int, int], object] = _accept) -> Picture:
    """Decodes an image file, applies its EXIF orientation, blends transparency with white, and scales it (bicubic).

    Args:
        data: JPEG, PNG or WebP file.
        limits: checked before pixels are decoded.
        sizes: sizes of the model's input. Padding is 0.
        check: called with width and height of the upright image before pixels are decoded; what it raises is raised.

    Raises:
        InvalidRequest: the file is empty, too large, too small, of another format, animated, or broken. A JPEG file that lacks
            only its end marker is not broken.
    """
    if not data:
        raise _refused("must not be empty")
    if len(data) > limits.max_bytes:
        raise _refused(f"must have at most {limits.max_bytes:,} bytes; it has {len(data):,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about unusual files; only whether it decodes them matters
        if not _lacks_end(data):
            return _read(data, limits, sizes, check)
        # Pillow accepts such a file by chance. If all pixels are there, what follows them changes nothing.
        whole = [data.rstrip(b"\xff") + rest + _JPEG_END for rest in (b"", _NOISE)]
        picture, other = (_read(each, limits, sizes, check) for each in whole)
    if picture != other:
        raise _refused("cannot be decoded: the JPEG file is cut off")
    return picture


def _lacks_end(data: bytes) -> bool:
    """Whether a JPEG file has no end marker after its last scan, in whose data the markers' bytes cannot occur."""
    if data.endswith(_JPEG_END):  # a search through a whole file takes 1 ms per megabyte
        return False
    scan = data.rfind(b"\xff\xda")
    return _BEGINS["JPEG"].match(data) is not None and scan >= 0 and data.find(_JPEG_END, scan) < 0


def _read(data: bytes, limits: ImageLimits, sizes: InputSizes, check: Callable[[int, int], object]) -> Picture:
    """See :func:`read_picture`."""
    image = _opened(data)
    width, height = _checked_shape(image, limits)
    orientation = _orientation(image)
    fitted = sizes.fitted(*((height, width) if orientation in _LYING else (width, height)))
    check(*fitted.original)
    inside = (fitted.inside[1], fitted.inside[0]) if orientation in _LYING else fitted.inside
    try:
        image.draft("RGB", (_DRAFT * inside[0], _DRAFT * inside[1]))  # decodes a large JPEG at a reduced scale
        image.load()
        if image.format == "PNG":
            png.scale_transparency(image, data)
        colours = _coloured(image)
        scaled = colours if colours.size == inside else colours.resize(inside, Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise many types on broken files
        raise _refused(f"cannot be decoded: {_in_short(error)}") from error
    turned = scaled.transpose(_TURNS[orientation]) if orientation in _TURNS else scaled
    padded = turned if turned.size == fitted.size else turned.crop((0, 0, *fitted.size))  # black outside
    return Picture(padded.tobytes(), fitted)


def _opened(data: bytes) -> Image.Image:
    """Reads the header."""
    kind = next((name for name, begin in _BEGINS.items() if begin.match(data)), None)
    if kind is None:
        raise _refused("is not a JPEG, PNG or WebP file: it does not begin as one")
    try:
        return Image.open(io.BytesIO(png.without_metadata(data) if kind == "PNG" else data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _refused("has far too many pixels") from error
    except Exception as error:  # as above
        raise _refused(f"begins as a {kind} file, but its header cannot be read") from error


def _checked_shape(image: Image.Image, limits: ImageLimits) -> tuple[int, int]:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise _refused(f"must have at most {limits.max_pixels:,} pixels; it has {width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise _refused(f"must have at least {MIN_SIDE} pixels in each direction; it has {width} x {height}")
    is_still = image.format in ("JPEG", "MPO")  # further images of an MPO file are the same photo in other sizes
    if not is_still and getattr(image, "is_animated", False):
        raise _refused("is an animation; send one of its frames")
    return width, height


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) if it is absent or invalid."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - images with broken metadata are accepted
        return 1
    return value if value in _TURNS else 1


def _coloured(image: Image.Image) -> Image.Image:
    """Converts an image to RGB with 8 bits per channel."""
    if image.mode.startswith("I"):  # 16 bits of grey
        samples = np.asarray(image).astype(np.int64)
        grey = (samples >> 8).clip(0, 255)
        return Image.fromarray(np.where(samples == image.info.get("transparency", -1), 255, grey).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _refused(text: str) -> InvalidRequest:
    return InvalidRequest(f"{_FIELD} {text}", field=_FIELD)


def _in_short(error: Exception) -> str:
    text = str(error).splitlines()
    return (text[0] if text else type(error).__name__)[:100]
