# SPDX-License-Identifier: Apache-2.0
"""What Pillow does not read from PNG files as their specification (W3C, third edition) says."""

from __future__ import annotations

import re
import struct
import zlib

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_USED = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
"""Ancillary chunks that change the picture: transparency, orientation, animation."""
_ORIENTATION = re.compile(rb"(?:XML:com\.adobe\.xmp|Raw profile type exif)\0")
"""Keywords of text that may hold the orientation, in files without an eXIf chunk."""
_MAX_TEXT = 1 << 20
"""Bytes of such text, the same as Pillow's limit for decompressed text."""
_COMPRESSED = {b"zTXt": re.compile(rb"[^\0]*\0\0"), b"iTXt": re.compile(rb"[^\0]*\0\x01\0[^\0]*\0[^\0]*\0")}


def without_metadata(data: bytes) -> bytes:
    """Returns a PNG file without the chunks that do not change the picture, for which Pillow refuses some files.

    Those are large texts and colour profiles (more than 1 MiB decompressed) and short or invalid values of others. From a chunk
    that is cut off, the file stays as it is.
    """
    view, begin, room = memoryview(data), len(SIGNATURE), _MAX_TEXT
    kept: list[memoryview] = [view[:begin]]
    while begin + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, begin)
        end = begin + length + 12
        if end > len(data):
            break
        size = _text_size(kind, data[begin + 8 : end - 4], room) if kind in (b"tEXt", b"zTXt", b"iTXt") else 0
        is_critical = not kind[0] & 0x20
        if is_critical or kind in _USED or 0 < size <= room:
            kept.append(view[begin:end])
            room -= size
        begin = end
    return b"".join([*kept, view[begin:]])


def _text_size(kind: bytes, content: bytes, most: int) -> int:
    """Returns the size of a text after decompression, at most ``most + 1``; 0 if it holds no orientation."""
    if not _ORIENTATION.match(content):
        return 0
    head = _COMPRESSED[kind].match(content) if kind in _COMPRESSED else None
    if head is None:
        return len(content)
    try:
        return len(zlib.decompressobj().decompress(content[head.end() :], most + 1))
    except zlib.error:
        return 0


def scale_transparency(image: Image.Image, data: bytes) -> None:
    """Changes the transparent colour of a decoded PNG image to the values that its pixels have in Pillow.

    The chunk tRNS holds samples of the file's depth. Pillow scales pixels of 1, 2 and 4 bits to 8, and keeps the upper 8 of 16
    bits of colours; it leaves pixels of 16 bits of grey.
    """
    colour = image.info.get("transparency")
    depth = data[24]
    if image.mode == "RGB" and depth == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif image.mode in ("1", "L") and depth < 8 and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**depth - 1)
