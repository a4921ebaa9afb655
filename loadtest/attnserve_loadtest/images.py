# SPDX-License-Identifier: Apache-2.0
"""Image files to send: photos in the sizes of phones and web pages, a street in the sizes of video, or a folder's files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from attnserve_client import demo
from attnserve_client.cli.images import find_images, read_image

DEFAULT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "photos"
STREET = Path(demo.__file__).with_name("street.jpg")
CLIP = STREET.with_name("clip.mp4")
SIZES = (
    ((320, 240), "JPEG"),
    ((640, 480), "JPEG"),
    ((800, 600), "WEBP"),
    ((1024, 768), "JPEG"),
    ((1280, 960), "PNG"),
    ((2048, 1536), "JPEG"),
    ((4032, 3024), "JPEG"),
)
"""Width, height and format; the last one is a phone's."""
STREET_SIZES = ((480, 360), (640, 480), (1280, 720), (1920, 1080))
"""Width and height of CamVid's frames, and of video."""


def photos(folder: Path | None = None) -> list[bytes]:
    """The image files of a folder as they are; the project's own photos in many sizes if none is named.

    Raises:
        ToolError: there is no image, or one cannot be read.
    """
    if folder is not None:
        return [read_image(path) for path in find_images([folder])]
    return [_encoded(path, size, kind) for path in find_images([DEFAULT]) for size, kind in SIZES]


def streets(folder: Path | None = None) -> list[bytes]:
    """The image files of a folder as they are; the demo's street in ``STREET_SIZES``, mirrored too, if none is named.

    Raises:
        ToolError: there is no image, or one cannot be read.
    """
    if folder is not None:
        return photos(folder)
    return [_encoded(STREET, size, "JPEG", is_mirrored=mirrored) for size in STREET_SIZES for mirrored in (False, True)]


def _encoded(path: Path, size: tuple[int, int], kind: str, *, is_mirrored: bool = False) -> bytes:
    with Image.open(path) as photo:
        scaled = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
    if is_mirrored:
        scaled = ImageOps.mirror(scaled)
    file = io.BytesIO()
    scaled.save(file, kind, quality=85)
    return file.getvalue()
