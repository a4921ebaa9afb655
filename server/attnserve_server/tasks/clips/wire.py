# SPDX-License-Identifier: Apache-2.0
"""What the front and a decoding process share: limits, sampling, and the messages on the socket between them. No decoder."""

from __future__ import annotations

import math
import socket
import struct
from typing import Any

import msgspec

MAX_MESSAGE = 2**31 - 1
_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 20


class ClipLimits(msgspec.Struct, frozen=True, gc=False):
    """Limits of a clip: bytes of the file, or of all frames that are sent; frames; pixels of a frame; seconds."""

    max_bytes: int = 10_000_000
    max_frames: int = 3_000
    max_pixels: int = 2_100_000
    max_seconds: float = 120.0

    def problem_of_size(self, width: int, height: int) -> str:
        """Returns what is wrong with frames of this size, to follow the name of the field; empty if they are not too large."""
        if width * height <= self.max_pixels:
            return ""
        return f"must have frames of at most {self.max_pixels:,} pixels; it has {width} x {height}"

    def problem_of_seconds(self, seconds: float) -> str:
        """Returns what is wrong with a header that claims this duration, likewise."""
        if not seconds > self.max_seconds:
            return ""
        claimed = f"{math.ceil(10 * seconds) / 10:.1f}".removesuffix(".0")  # rounded up, since it is more than the limit
        return f"must last at most {self.max_seconds:g} seconds; its header says {claimed}"


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What is to be made of a file, whose bytes follow: so many frames of this width and height."""

    container: str
    limits: ClipLimits
    frames: int
    width: int
    height: int


class Decoded(msgspec.Struct, frozen=True, tag="decoded", gc=False):
    """The sampled frames of a clip.

    Attributes:
        count: number of frames of the clip.
        indices: of the sampled frames, in order.
        seconds: time of each in the clip.
        pixels: of each, (height, width, 3) bytes. A frame that is there several times is one object here, and sent once.
    """

    count: int
    indices: list[int]
    seconds: list[float]
    pixels: list[bytes]


class Refused(msgspec.Struct, frozen=True, tag="refused", gc=False):
    """The file cannot be served; the text follows the name of the field."""

    text: str


class Hello(msgspec.Struct, frozen=True, tag="hello", gc=False):
    """The process is ready."""


Answer = Decoded | Refused | Hello


def sample_frames(count: int, wanted: int) -> list[int]:
    """Returns the indices of ``wanted`` of ``count`` frames, evenly over the clip: ``round(linspace(0, count - 1, wanted))``.

    The training samples by NumPy's function; this one makes the same products and rounds a half to the even number alike.

    Raises:
        ValueError: there is no frame.
    """
    if count < 1:
        raise ValueError("a clip must have at least one frame")
    if wanted == 1:
        return [0]
    step = (count - 1) / (wanted - 1)
    return [*(round(index * step) for index in range(wanted - 1)), count - 1]


def send(end: socket.socket, message: Any, data: bytes | None = None) -> None:
    """Sends a message, and then bytes if there are any.

    Raises:
        OSError: the other end is closed, or the socket's timeout has passed.
    """
    encoded = msgspec.msgpack.encode(message)
    end.sendall(_LENGTH.pack(len(encoded)) + encoded)
    if data is not None:
        end.sendall(_LENGTH.pack(len(data)))
        end.sendall(data)


def receive(end: socket.socket) -> bytes:
    """Returns the next message, or the bytes after it.

    Raises:
        EOFError: the other end is closed.
        OSError: the socket's timeout has passed.
    """
    (length,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return _exactly(end, length)


def _exactly(end: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        part = end.recv(min(_CHUNK, length - len(found)))
        if not part:
            raise EOFError("the other end is closed")
        found += part
    return bytes(found)
