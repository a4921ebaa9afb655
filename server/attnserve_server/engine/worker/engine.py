# SPDX-License-Identifier: Apache-2.0
"""The interface between a worker and its engines, and the function that makes an engine from its model's kind."""

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
        """Whether any request is waiting or running."""
        ...

    @property
    def due_in_s(self) -> float:
        """Seconds until :meth:`step` has something to do, 0 if it has now; read only while there is work."""
        ...

    def starting(self) -> Iterator[None]:
        """Loads the graphs and warms them up, one part per yield; the worker steps its other engines between parts."""
        ...

    def submit(self, work: Work[Any]) -> None:
        """Queues a request for the next step."""
        ...

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request before the next step; ignores an unknown one."""
        ...

    def step(self) -> list[Any]:
        """Runs one iteration; returns its parts, :class:`Done` and :class:`Failed`. A failed request raises no exception."""
        ...

    def stats(self) -> EngineStats:
        """Returns the statistics since the last call."""
        ...


def make_engine(kind: Kind, bundle: Bundle, config: EngineConfig) -> Engine:
    """Makes the engine of a model; it is not started.

    Raises:
        ImportError: the kind's ``engine`` path does not exist.
    """
    return cast(Engine, imported(kind.engine)(bundle, config))
