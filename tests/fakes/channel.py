# SPDX-License-Identifier: Apache-2.0
"""A worker's end of the link, without a socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnserve_server.engine.link.messages import ENCODER, Loading, from_worker
from attnserve_server.kinds import ITERATIVE, Kind


class Channel:
    """Delivers one group of messages after the other; keeps the messages that are sent to it.

    Args:
        groups: of messages to the worker.
        kinds: kinds of engines whose messages the worker may send.
    """

    def __init__(self, *groups: Sequence[Any], kinds: Sequence[Kind] = ()) -> None:
        self.groups = [list(group) for group in groups]
        self.decoder = from_worker((ITERATIVE, *kinds))
        self.said: list[Any] = []
        self.loading: list[Loading] = []
        """What is said of loading, apart from the rest."""
        self.timeouts: list[float | None] = []
        """How long the worker would have waited for each group."""
        self.is_closed = False

    def receive(self, timeout_s: float | None = 0.0) -> list[bytes]:
        self.timeouts.append(timeout_s)
        if not self.groups:
            return []
        return [ENCODER.encode(message) for message in self.groups.pop(0)]

    def send(self, data: bytes) -> None:
        message = self.decoder.decode(data)
        (self.loading if isinstance(message, Loading) else self.said).append(message)

    def close(self) -> None:
        self.is_closed = True
