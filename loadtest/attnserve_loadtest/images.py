# SPDX-License-Identifier: Apache-2.0
"""Image files to send: photos of the sizes of phones, cameras and web pages, or the files of a folder."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from attnserve_client.cli.images import find_images, read_image

DEFAULT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "photos"
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


def photos(folder: Path | None = None) -> list[bytes]:
    """The image files of a folder as they are; the project's own photos in many sizes if none is named.

    Raises:
        ToolError: there is no image, or one cannot be read.
    """
    if folder is not None:
        return [read_image(path) for path in find_images([folder])]
    return [_encoded(path, size, kind) for path in find_images([DEFAULT]) for size, kind in SIZES]


def _encoded(path: Path, size: tuple[int, int], kind: str) -> bytes:
    with Image.open(path) as photo:
        scaled = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    scaled.save(file, kind, quality=85)
    return file.getvalue()
