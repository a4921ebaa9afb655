# SPDX-License-Identifier: Apache-2.0
"""Small clips for tests, as frames and as files. Files need PyAV, the extra ``video``."""

from __future__ import annotations

import functools
import importlib.util
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
RATE = 10
needs_decoder = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV, the extra video")
FILES = {
    "mp4": ("mp4", "libx264", "yuv420p"),
    "mpeg4": ("mp4", "mpeg4", "yuv420p"),
    "webm": ("webm", "libvpx-vp9", "yuv420p"),
    "vp8": ("webm", "libvpx", "yuv420p"),
    "gif": ("gif", "gif", "rgb8"),
}
"""Container, encoder and pixel format."""


def moving(count: int, width: int = 64, height: int = 48) -> list[Pixels]:
    """Frames of squares that move to the right; the number of a frame is its red value / 4."""
    squares = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    scene = squares.repeat(8, 0).repeat(8, 1)
    frames = [np.roll(scene, 2 * number, 1) for number in range(count)]
    for number, frame in enumerate(frames):
        frame[..., 0] = 4 * number
    return frames


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@functools.cache
def clip_file(kind: str = "mp4", count: int = 20, width: int = 64, height: int = 48) -> bytes:
    """A file of so many frames."""
    import av

    container, encoder, pixel_format = FILES[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(encoder, rate=RATE, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for frame in moving(count, width, height):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


@functools.cache
def fragmented() -> bytes:
    """An MP4 file of 20 frames in fragments, as it is streamed."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "empty_moov+frag_every_frame"}) as output:
        stream: Any = output.add_stream("libx264", rate=RATE, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving(20):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def with_sound(count: int = 20) -> bytes:
    """An MP4 file of two streams, sound first."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        sound: Any = output.add_stream("aac", rate=44_100)
        stream: Any = output.add_stream("libx264", rate=RATE, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            silence.sample_rate, silence.pts = 44_100, 1024 * number
            output.mux(sound.encode(silence))
        for frame in moving(count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(sound.encode(None))
        output.mux(stream.encode(None))
    return file.getvalue()


def replaced(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """A file with other bytes at a distance from a mark."""
    place = data.index(mark) + offset
    return data[:place] + value + data[place + len(value) :]


def webm_of(milliseconds: float) -> bytes:
    """A WebM file of 2 seconds whose header claims this duration."""
    return replaced(clip_file("webm"), b"\x44\x89\x88", 3, np.array(milliseconds, ">f8").tobytes())


def of_ten_hours(kind: str = "mp4") -> bytes:
    """A file of 2 seconds whose header claims ten hours."""
    if kind == "webm":
        return webm_of(36e6)
    return replaced(clip_file(), b"mvhd", 20, (36_000 * 1000).to_bytes(4, "big"))


def of_a_million_frames() -> bytes:
    """A file of 20 frames whose table of samples claims a million, of one byte each."""
    million = (10**6).to_bytes(4, "big")
    data = replaced(clip_file(), b"stsz", 8, (1).to_bytes(4, "big") + million)
    data = replaced(data, b"stsc", 16, million)  # in the first chunk
    return replaced(data, b"stts", 12, million)


def turned(degrees: int) -> bytes:
    """An MP4 file whose header says that its frames are to be turned, as phones write it."""
    one = 1 << 16
    matrix = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    parts = (matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 30)
    return replaced(clip_file(), b"tkhd", 44, b"".join((part & 0xFFFFFFFF).to_bytes(4, "big") for part in parts))


def slow_gif(count: int, side: int = 1400) -> bytes:
    """A GIF file of few bytes whose decoding takes long: each frame has all pixels of a square in one colour, and 3 KB."""
    header, frames = b"", list[bytes]()
    for colour in (0, 1):
        file = io.BytesIO()
        image = Image.new("P", (side, side), colour)
        image.putpalette([0, 0, 0, 255, 255, 255] * 128)
        image.save(file, "GIF", optimize=False)
        data = file.getvalue()
        end_of_header = 13 + 3 * (2 << (data[10] & 7))  # with the table of colours
        header, begin = data[:end_of_header], data.index(b",", end_of_header)
        frames.append(b"\x21\xf9\x04\x04\x04\0\0\0" + data[begin:-1])  # shown for 40 ms
    return header + b"".join(frames[number % 2] for number in range(count)) + b";"
