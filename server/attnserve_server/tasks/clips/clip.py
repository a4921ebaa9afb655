# SPDX-License-Identifier: Apache-2.0
"""Reads a clip, a file or its frames, to the sampled frames that a model gets. Limits are checked before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks.clips.files import claimed_seconds, claimed_size, container_of, is_cut_off
from attnserve_server.tasks.clips.processes import FIELD
from attnserve_server.tasks.clips.wire import ClipLimits, Decoded, Wanted, sample_frames
from attnserve_server.tasks.ending import current
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import ImageLimits, read_picture

_QUALITY = 85
_FRAMES = "frames"
Decode = Callable[[bytes, Wanted], Decoded]
"""``Decoding.decode``."""


@dataclass(frozen=True, slots=True)
class ClipShape:
    """The model's input: number of frames, their width and height, and the cells of its attention."""

    frames: int
    size: tuple[int, int]
    cells: tuple[int, int, int]
    """In time, rows, columns."""
    first_frame: int
    """First frame of the first cell in time."""
    cell_frames: int

    @classmethod
    def of(cls, declared: manifest_pb2.ClipInput) -> ClipShape:
        """Returns that of a manifest."""
        cells = declared.cells
        size = declared.size.width, declared.size.height
        return cls(declared.frames, size, (cells.times, cells.rows, cells.columns), cells.first_frame, cells.frames)

    @property
    def num_cells(self) -> int:
        """Number of all cells."""
        times, rows, columns = self.cells
        return times * rows * columns

    def time_of(self, frame: int) -> int:
        """Returns the cell in time of a sampled frame."""
        return min(max(frame - self.first_frame, 0) // self.cell_frames, self.cells[0] - 1)

    def cell_of(self, frame: int, x: float, y: float) -> int:
        """Returns the index of the cell of a position; ``x`` and ``y`` are shares of the frame, from 0 to 1."""
        _, rows, columns = self.cells
        row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
        return (self.time_of(frame) * rows + row) * columns + column


@dataclass(frozen=True, slots=True)
class Clip:
    """The sampled frames of a clip: their indices among its ``count`` frames, their times, and their pixels (height, width, 3)."""

    count: int
    indices: Sequence[int]
    seconds: Sequence[float]
    pixels: Sequence[bytes]

    def pictures(self, size: tuple[int, int]) -> list[bytes]:
        """Returns the frames as JPEG files; a frame that is there several times is encoded once."""
        made: dict[int, bytes] = {}
        for index, pixels in zip(self.indices, self.pixels, strict=True):
            if index not in made:
                file = io.BytesIO()
                Image.frombytes("RGB", size, pixels).save(file, "JPEG", quality=_QUALITY)
                made[index] = file.getvalue()
        return [made[index] for index in self.indices]


def check_clip(video: bytes, frames: Sequence[bytes], limits: ClipLimits) -> None:
    """Checks what can be seen without decoding.

    Raises:
        InvalidRequest: there is neither a file nor a frame, or both; the file is none, cut off or too large; too many frames.
    """
    if video and frames:
        raise InvalidRequest(f"{FIELD} and {_FRAMES} exclude each other; send one of them", field=_FRAMES)
    if frames:
        if len(frames) > limits.max_frames:
            raise _refused(f"must be at most {limits.max_frames:,}; there are {len(frames):,}", _FRAMES)
        if (total := sum(map(len, frames))) > limits.max_bytes:
            raise _refused(f"must have at most {limits.max_bytes:,} bytes together; they have {total:,}", _FRAMES)
        return
    if not video:
        raise _refused("must not be empty; or send frames")
    if len(video) > limits.max_bytes:
        raise _refused(f"must have at most {limits.max_bytes:,} bytes; it has {len(video):,}")
    container = container_of(video)
    if container is None:
        raise _refused("is not an MP4, WebM or GIF file: it does not begin as one")
    if is_cut_off(video, container):
        raise _refused("cannot be decoded: the file is cut off, or has other bytes behind its end")
    if problem := limits.problem_of_seconds(claimed_seconds(video, container)):
        raise _refused(problem)
    if problem := limits.problem_of_size(*claimed_size(video, container)):
        raise _refused(problem)


def read_video(video: bytes, limits: ClipLimits, shape: ClipShape, decode: Decode) -> Clip:
    """Decodes a checked file.

    Raises:
        InvalidRequest: as ``decode``.
    """
    container = container_of(video)
    assert container is not None, "check_clip refused it"
    found = decode(video, Wanted(container, limits, shape.frames, *shape.size))
    return Clip(found.count, found.indices, found.seconds, found.pixels)


def read_frames(frames: Sequence[bytes], limits: ClipLimits, shape: ClipShape) -> Clip:
    """Decodes the sampled ones of checked frames.

    Raises:
        InvalidRequest: one cannot be decoded; names it.
        Cancelled: the request has ended.
    """
    indices, sizes, ending = sample_frames(len(frames), shape.frames), InputSizes((shape.size,)), current()
    of_frame = ImageLimits(limits.max_bytes, limits.max_pixels)
    made: dict[int, bytes] = {}
    for index in indices:
        if index not in made:
            ending.check()
            try:
                made[index] = read_picture(frames[index], of_frame, sizes).pixels
            except InvalidRequest as error:
                field = f"{_FRAMES}[{index}]"
                raise InvalidRequest(error.message.replace("image", field, 1), field=field) from error
    return Clip(len(frames), indices, [0.0] * len(indices), [made[index] for index in indices])


def _refused(text: str, field: str = FIELD) -> InvalidRequest:
    return InvalidRequest(f"{field} {text}", field=field)
