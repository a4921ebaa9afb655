# SPDX-License-Identifier: Apache-2.0
"""Splitting and tokenizing beside the event loop: short texts inline, long ones in threads. Must not import grpc."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attnserve_server.dataplane.offload import MAX_PENDING, Offload

__all__ = ["MAX_INLINE_CHARS", "MAX_PENDING", "Tokenizing"]

T = TypeVar("T")

MAX_INLINE_CHARS = 512
"""A text of this size is tokenized in some 20 µs, less than the way to a thread and back costs."""


class Tokenizing:
    """Runs tokenizers for the event loop, which no text may hold up."""

    def __init__(self) -> None:
        self._offload = Offload("tokenizer", "long texts")

    async def run(self, num_chars: int, work: Callable[[], T]) -> T:
        """Returns what ``work`` makes of a text of that size.

        Raises:
            Overloaded: too many long texts wait.
        """
        return work() if num_chars <= MAX_INLINE_CHARS else await self._offload.run(work)

    def close(self) -> None:
        """See :meth:`Offload.close`."""
        self._offload.close()
