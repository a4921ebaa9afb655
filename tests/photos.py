# SPDX-License-Identifier: Apache-2.0
"""The project's own photos, and variations of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).resolve().parent / "golden" / "photos"
PHOTOS = sorted(FOLDER.glob("*.jpg"))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def variations(count: int) -> list[bytes]:
    """``count`` different photos: the project's own, cropped and rotated."""
    found = []
    for number in range(count):
        photo = Image.open(PHOTOS[number % len(PHOTOS)]).convert("RGB")
        edge = 7 * (number // len(PHOTOS)) % 90
        photo = photo.crop((edge, edge // 2, photo.width - edge // 3, photo.height - edge)).rotate(number % 7 * 3)
        found.append(encoded(photo, ("JPEG", "PNG", "WEBP")[number % 3], quality=80))
    return found
