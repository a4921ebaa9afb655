# SPDX-License-Identifier: Apache-2.0
"""Image files for the client's tests."""

from __future__ import annotations

import io

from PIL import Image


def file_of(colour: str = "red", size: tuple[int, int] = (60, 40)) -> bytes:
    """A PNG file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()
