# SPDX-License-Identifier: Apache-2.0
"""Reads the message of each call, and ends the waits for messages that do not come. Used by ``calls.py`` only.

All waits are equally long, so the one that began first ends first, and one timer serves all calls. ``asyncio.timeout`` has a timer
for each, which stays in the event loop's heap after the message has come.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import grpc

MESSAGE_S = 120.0
"""Longest time from the arrival of a call to that of its message."""

_CANCELLATION_S = 0.01
"""A cancellation arrives within this time after the end of the messages that it causes."""

QUIET_S = 0.1
"""A call that is on its way when the clients learn that the server stops arrives within this time, except over slow networks."""


class Arrivals:
    """The calls whose messages have not come. Belongs to one event loop."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        """When each wait ends, by the loop's clock; the first one ends first."""
        self._late = set[asyncio.Task[Any]]()
        """Tasks whose waits have ended; they have been cancelled."""
        self._timer: asyncio.TimerHandle | None = None
        self._last_at = -math.inf
        """When the last call arrived, by the loop's clock."""

    async def quiet(self, timeout_s: float) -> None:
        """Waits until no call has arrived for ``QUIET_S``, for ``timeout_s`` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while (now := loop.time()) < (end := min(self._last_at + QUIET_S, until)):
            await asyncio.sleep(end - now)

    async def read(self, context: Any) -> bytes | None:
        """Returns the message of the current task's call; None if there is none, or it does not arrive within ``MESSAGE_S``."""
        task = cast(asyncio.Task[Any], asyncio.current_task())
        loop = task.get_loop()
        self._last_at = loop.time()
        end = self._ends[task] = self._last_at + MESSAGE_S
        if self._timer is None:
            self._timer = loop.call_at(end, self._end_waits)
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if task in self._late and not task.uncancel():
                return None
            raise
        finally:
            self._ends.pop(task, None)
            self._late.discard(task)
        if data is not grpc.aio.EOF:
            return cast(bytes, data)
        await asyncio.sleep(_CANCELLATION_S)  # where the call was cancelled instead, this raises
        return None

    def _end_waits(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        for task, end in list(self._ends.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._end_waits)
                return
            del self._ends[task]
            self._late.add(task)
            task.cancel()
