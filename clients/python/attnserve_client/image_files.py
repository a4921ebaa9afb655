# SPDX-License-Identifier: Apache-2.0
"""Image and video files as the clients take them: bytes, paths, file objects; and images of Pillow, which is not imported here."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from attnserve_client.errors import InvalidRequest

FileSource = bytes | str | os.PathLike[str] | BinaryIO
"""A file's bytes, its path, or a file object that was opened in binary mode."""


class PillowImage(Protocol):
    """An image of Pillow."""

    mode: str

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Writes the image into a file."""


ImageFile = FileSource | PillowImage
"""An image file, or an image of Pillow, which is sent as a PNG file."""

_FILES = "the bytes of a file, its path, or a file opened in binary mode"
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
"""Pillow's modes that a PNG file can hold."""
_GREY_16 = frozenset({"I", "I;16B", "I;16L", "I;16N"})
"""Pillow's other modes of grey with more than 8 bits."""


def image_bytes(image: Any, field: str = "image") -> bytes:
    """Returns an image file's bytes.

    Args:
        image: an ``ImageFile``.
        field: of the request, for messages.

    Raises:
        InvalidRequest: it is neither a file nor an image.
        OSError: the file cannot be read.
    """
    if is_pillow(image):
        return _encoded(image, field)
    if is_file(image):
        return file_bytes(image, field)
    arrays = "; make an image of an array: PIL.Image.fromarray(array)" if hasattr(image, "__array__") else ""
    raise InvalidRequest(f"{field} must be {_FILES}, or an image of Pillow, not {_name_of(image)}{arrays}", field=field)


def is_file(value: Any) -> bool:
    """Tells whether a value is a file: its bytes, its path, or a file object."""
    return isinstance(value, bytes | bytearray | memoryview | str | os.PathLike) or callable(getattr(value, "read", None))


def is_pillow(value: Any) -> bool:
    """Tells whether a value is an image of Pillow."""
    return any(each.__module__.partition(".")[0] == "PIL" for each in type(value).__mro__) and hasattr(value, "save")


def file_bytes(file: Any, field: str) -> bytes:
    """Returns the bytes of a file for which ``is_file`` is true; a file object is read from its position to its end.

    Raises:
        InvalidRequest: the file object was opened in text mode, is at its end, or is closed.
        OSError: the file cannot be read.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        return bytes(file)
    if isinstance(file, str | os.PathLike):
        return Path(file).read_bytes()
    try:
        data = file.read()
    except ValueError as error:  # closed, or text that is not valid in its encoding
        raise InvalidRequest(f"{field} cannot be read: {error}", field=field) from error
    if not isinstance(data, bytes):
        raise InvalidRequest(f'{field} must be a file opened in binary mode, as by open(path, "rb")', field=field)
    if not data:
        raise InvalidRequest(f"{field} is a file with nothing left to read; seek(0) returns to its beginning", field=field)
    return data


def not_a_clip(value: Any) -> InvalidRequest:
    """Returns the error for a value that is no clip."""
    many = "; put it in a list" if is_pillow(value) else ""
    return InvalidRequest(f"video must be {_FILES}, or a list of image files, not {_name_of(value)}{many}", field="video")


def _encoded(image: Any, field: str) -> bytes:
    """Returns a PNG file of an image, with its EXIF data, since the server turns images by them."""
    file = io.BytesIO()
    try:
        _writable(image).save(file, "PNG", exif=image.getexif(), compress_level=1)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{field} of Pillow's mode {image.mode} cannot be written as PNG: {error}", field=field) from error
    return file.getvalue()


def _writable(image: Any) -> Any:
    """Returns an image in a mode that a PNG file can hold; ``convert("RGB")`` would clip greys of more than 8 bits at 255.

    Raises:
        ValueError: its values do not fit into a PNG file, or Pillow cannot convert them.
    """
    if image.mode in _PNG_MODES:
        return image
    if image.mode == "F":
        raise ValueError("the range of its values is unknown; scale them to 0 to 255, and convert it to mode L")
    if image.mode not in _GREY_16:
        return image.convert("RGB")
    grey = image.convert("I")  # of Pillow's modes of 16 bits only I;16 keeps its values when it is converted to I;16
    low, high = grey.getextrema()
    if low < 0 or high > 65535:
        raise ValueError(f"its values go from {low} to {high}, and 16 bits hold 0 to 65535")
    return grey.convert("I;16")


def _name_of(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
