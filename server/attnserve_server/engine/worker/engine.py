# SPDX-License-Identifier: Apache-2.0
"""What a worker asks of an engine, and the one place where an engine is made: by the kind of its model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from attnserve_server.kinds import Kind, imported
from attnserve_server.request import Work
from attnserve_server.stats import EngineStats


class Engine(Protocol):
    """One model's engine; a worker calls it from one thread."""

    @property
    def has_work(self) -> bool:
        """Whether something waits or runs."""
        ...

    def starting(self) -> Iterator[None]:
        """Loads the graphs and warms them up, in parts: a worker steps its other engines between two of them."""
        ...

    def submit(self, work: Work[Any]) -> None:
        """Takes a request for the next step."""
        ...

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request before the next step; an unknown one is passed over."""
        ...

    def step(self) -> list[Any]:
        """One iteration; returns the parts, :class:`Done` and :class:`Failed` that it gave. It raises for no single request."""
        ...

    def stats(self) -> EngineStats:
        """What happened since the last call."""
        ...


def make_engine(kind: Kind, bundle: Bundle, config: EngineConfig) -> Engine:
    """The engine of a kind's model, not yet started.

    Raises:
        ImportError: the kind names a function that is not there.
    """
    return cast(Engine, imported(kind.engine)(bundle, config))
