# SPDX-License-Identifier: Apache-2.0
"""A socket pair between the front and one worker; each message is preceded by its length in four bytes.

There is no message broker: its threads would add two wake-ups in each direction, and on busy cores every wake-up waits for the
operating system's scheduler.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import cast

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 18
_BUFFER = 1 << 21
"""Wanted size of the socket's buffer in bytes, in which a clip has room; what has none is copied, and sent part by part. The system
may grant less."""
_LARGE = 1 << 16
"""Messages of this size in bytes are sent apart from their length: a copy of a clip costs more than a system call."""


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


class _Frames:
    """Assembles messages from the bytes of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Adds bytes; returns the messages that are now complete."""
        buffer, begin, messages = self._buffer, 0, list[bytes]()
        buffer += data
        while len(buffer) - begin >= _LENGTH.size:
            start = begin + _LENGTH.size
            end = start + cast(int, _LENGTH.unpack_from(buffer, begin)[0])
            if end > len(buffer):
                break
            with memoryview(buffer) as view:
                messages.append(bytes(view[start:end]))
            begin = end
        del buffer[:begin]
        return messages


class FrontEnd(asyncio.Protocol):
    """The front's end, on its event loop.

    Args:
        on_message: called with each message of the worker.
    """

    def __init__(self, on_message: Callable[[bytes], None]) -> None:
        self._on_message, self._frames = on_message, _Frames()
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(cls, on_message: Callable[[bytes], None]) -> tuple[FrontEnd, socket.socket]:
        """Makes a pair: the front's end, and the socket that a worker inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        try:
            _, end = await asyncio.get_running_loop().create_unix_connection(lambda: cls(on_message), sock=ours)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return end, theirs

    def send(self, message: bytes) -> None:
        """Sends a message; a message to a dead worker is dropped."""
        if self._transport is None or self._transport.is_closing():
            return
        if len(message) < _LARGE:
            self._transport.write(_framed(message))
        else:
            self._transport.write(_LENGTH.pack(len(message)))
            self._transport.write(message)

    def close(self) -> None:
        """Closes this end."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        for message in self._frames.feed(data):
            self._on_message(message)


class WorkerEnd:
    """The worker's end; its calls block. One thread receives; any thread may send.

    Args:
        descriptor: file descriptor of the inherited socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket, self._frames = socket.socket(fileno=descriptor), _Frames()
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._sending = threading.Lock()

    def send(self, message: bytes) -> None:
        """Sends a message; blocks while the socket's buffer is full.

        Raises:
            OSError: the front has closed its end.
        """
        with self._sending:
            self._socket.sendall(_framed(message))

    def receive(self, timeout_s: float | None = 0.0) -> list[bytes]:
        """Returns the messages that have arrived.

        Args:
            timeout_s: time to wait for data, rounded up to milliseconds; None to block until there is a message. The part of a
                message that arrives ends the wait too.

        Raises:
            EOFError: the front has closed its end.
        """
        if timeout_s:
            self._readable.poll(math.ceil(timeout_s * 1000))
        while True:
            try:
                data = self._socket.recv(_CHUNK, 0 if timeout_s is None else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return []
            if not data:
                raise EOFError("the front has closed its end")
            messages = self._frames.feed(data)
            if messages or timeout_s is not None:
                return messages

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()
