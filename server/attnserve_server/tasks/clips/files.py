# SPDX-License-Identifier: Apache-2.0
"""Recognizes clip files by their first bytes, and those that are cut off by their outermost structure. Decodes nothing."""

from __future__ import annotations

MP4, WEBM, GIF = "mp4", "webm", "gif"
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_NEEDED = frozenset({b"moov", b"mdat", b"moof"})
_MAX_BOXES = 100_000
"""Outermost boxes of an MP4 file that are walked through."""


def container_of(data: bytes) -> str | None:
    """Returns ``MP4``, ``WEBM`` (or another Matroska file) or ``GIF``; None for anything else."""
    if data[4:8] == b"ftyp":
        return MP4
    if data.startswith(_EBML):
        return WEBM
    return GIF if data.startswith((b"GIF87a", b"GIF89a")) else None


def is_cut_off(data: bytes, container: str) -> bool:
    """Whether a file ends before its structure says so. A file that says nothing of its length is not.

    Other bytes may follow a WebM file, and an MP4 file whose tables and frames are whole; a GIF file ends as one, or with zeros.
    """
    if container == MP4:
        return _lacks_part_of_a_box(data)
    if container == WEBM:
        return _lacks_part_of_the_segment(data)
    return not data.rstrip(b"\0").endswith(b";")


def claimed_seconds(data: bytes, container: str) -> float:
    """Returns how long an MP4 file's header says that it lasts; 0 if it does not say, and for other files, whose decoder knows it.

    FFmpeg does not believe this header, and sums up the durations of the frames.
    """
    place = data.find(b"mvhd") if container == MP4 else -1
    if place < 0:
        return 0.0
    is_long = data[place + 4 : place + 5] == b"\1"
    begin, width = (place + 24, 8) if is_long else (place + 16, 4)
    scale, duration = data[begin : begin + 4], data[begin + 4 : begin + 4 + width]
    is_unknown = not scale.strip(b"\0") or not duration.strip(b"\xff")
    return 0.0 if is_unknown else int.from_bytes(duration, "big") / int.from_bytes(scale, "big")


def claimed_size(data: bytes, container: str) -> tuple[int, int]:
    """Returns width and height of a GIF file's frames by its header; 0, 0 for other files, whose decoder knows them.

    FFmpeg takes sizes above its limits for 0.
    """
    return (int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")) if container == GIF else (0, 0)


def _lacks_part_of_a_box(data: bytes) -> bool:
    place, types = 0, set[bytes]()
    for _ in range(_MAX_BOXES):
        if place == len(data):
            return b"moov" not in types
        size, kind, header = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 0 and len(kind) == 4:  # up to the end
            return b"moov" not in types | {kind}
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if size < header or place + size > len(data):
            return kind in _NEEDED or not _is_whole(types)
        types.add(kind)
        place += size
    return False


def _is_whole(types: set[bytes]) -> bool:
    """Whether these boxes hold all frames: the tables and the data, where no fragments (``moof``) follow."""
    return {b"moov", b"mdat"} <= types and b"moof" not in types


def _lacks_part_of_the_segment(data: bytes) -> bool:
    size, place = _length(data, len(_EBML))
    if size is None:
        return False
    place += size
    if data[place : place + 4] != _SEGMENT:
        return place + 4 > len(data)
    size, place = _length(data, place + 4)
    return size is not None and place + size > len(data)


def _length(data: bytes, place: int) -> tuple[int | None, int]:
    """Returns the number of an EBML element's bytes, None if it is unknown, and where they begin."""
    if place >= len(data) or not data[place]:
        return None, place
    width = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), place + width
