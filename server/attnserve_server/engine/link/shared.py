# SPDX-License-Identifier: Apache-2.0
"""Memory that the front shares with one worker, for tensors that cost too much to copy through a socket.

The front allocates a block for a request and writes its inputs there; the worker reads them in place, and writes the answer's
tensors into the same block if they fit. The block is free again when the worker has reported the end of the request, so neither
process writes where the other one still reads. The memory is an anonymous file: it ends with the two processes.

What is passed has the methods of :class:`Shareable` (``passes.py``); all else goes through the socket.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Any, Protocol, cast

import msgspec

from attnserve_server.request import Done, Failed, Work

LEAST = 1 << 16
"""Bytes from which on tensors are shared; fewer are copied as fast."""
SIZE = 1 << 26
"""Bytes for one worker. The system provides only those that have been written to."""
_ALIGNMENT = 1 << 12
Block = tuple[int, int]
"""First byte and number of bytes."""


class Shareable(Protocol):
    """A payload or an outcome whose tensors can be in shared memory."""

    @property
    def num_bytes(self) -> int:
        """Size of its tensors."""
        ...

    def placed(self, memory: memoryview, begin: int) -> Any:
        """Writes its tensors to memory, from ``begin`` on; returns it without their elements."""
        ...

    def taken(self, memory: memoryview, *, copies: bool) -> Any:
        """Returns what :meth:`placed` wrote, as copies or as views."""
        ...


def num_bytes_of(content: Any) -> int:
    """Returns the size of what can be shared of a payload or an outcome; 0 if nothing can."""
    return cast(Shareable, content).num_bytes if hasattr(content, "placed") else 0


class FrontMemory:
    """The front's side: allocates the blocks. Belongs to the front's event loop.

    Args:
        size: number of bytes.

    Raises:
        OSError: the system has no such memory.
    """

    def __init__(self, size: int = SIZE) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no anonymous files")
        self.descriptor = os.memfd_create("attnserve")
        try:
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._view, self._size = memoryview(self._map), size
        self._blocks: dict[int, Block] = {}

    @property
    def num_blocks(self) -> int:
        """Number of requests that have a block."""
        return len(self._blocks)

    def share(self, work: Work[Any]) -> Work[Any]:
        """Writes a request's tensors to a block if they are large and there is room; otherwise returns it as it is."""
        num_bytes = num_bytes_of(work.payload)
        if num_bytes < LEAST or (block := self._allocated(num_bytes)) is None:
            return work
        self._blocks[work.request_id] = block
        return msgspec.structs.replace(work, payload=work.payload.placed(self._view, block[0]), block=block)

    def receive(self, events: Iterable[Any]) -> list[Any]:
        """Copies the answers that are in blocks, and frees the blocks of all requests that have ended."""
        found = []
        for event in events:
            if isinstance(event, Done) and event.is_placed:
                event = msgspec.structs.replace(event, outcome=event.outcome.taken(self._view, copies=True), is_placed=False)
            if isinstance(event, Done | Failed):
                self._blocks.pop(event.request_id, None)
            found.append(event)
        return found

    def free(self, request_ids: Iterable[int]) -> None:
        """Frees the blocks of requests that the worker has dropped."""
        for request_id in request_ids:
            self._blocks.pop(request_id, None)

    def close_descriptor(self) -> None:
        """Closes the file once the worker has inherited it."""
        os.close(self.descriptor)

    def close(self) -> None:
        """Gives the memory back; the worker must have ended."""
        self._view.release()
        self._map.close()

    def _allocated(self, num_bytes: int) -> Block | None:
        """Returns the first gap that is large enough; None if there is none."""
        size, begin = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT, 0
        for first, taken in sorted(self._blocks.values()):
            if first - begin >= size:
                break
            begin = first + taken
        return (begin, size) if begin + size <= self._size else None


class WorkerMemory:
    """The worker's side.

    Args:
        descriptor: of the inherited file; -1 if there is none.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._view = memoryview(b"")
        if descriptor >= 0:
            self._view = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
            os.close(descriptor)
        self._blocks: dict[int, tuple[Any, Block]] = {}
        """Model and block by request."""

    def received(self, work: Work[Any]) -> Work[Any]:
        """Returns a request with its tensors as views of its block."""
        if work.block is None:
            return work
        self._blocks[work.request_id] = work.model, work.block
        return msgspec.structs.replace(work, payload=work.payload.taken(self._view, copies=False), block=None)

    def sent(self, events: Iterable[Any]) -> list[Any]:
        """Writes the answers to the blocks of their requests, if they are large and fit; the requests have ended then."""
        return [self._sent(event) if isinstance(event, Done | Failed) else event for event in events]

    def dropped(self, model: Any) -> list[int]:
        """Returns the requests of a model that have a block, and forgets them."""
        found = [request_id for request_id, (of_model, _) in self._blocks.items() if of_model == model]
        for request_id in found:
            del self._blocks[request_id]
        return found

    def _sent(self, event: Any) -> Any:
        _, block = self._blocks.pop(event.request_id, (None, None))
        if block is None or not isinstance(event, Done) or not LEAST <= num_bytes_of(event.outcome) <= block[1]:
            return event
        return msgspec.structs.replace(event, outcome=event.outcome.placed(self._view, block[0]), is_placed=True)
