# SPDX-License-Identifier: Apache-2.0
"""The text of all metrics, in the form that a scraper asks for: Prometheus text or OpenMetrics, by its Accept header."""

from __future__ import annotations

import time
from collections.abc import Iterator

import prometheus_client
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

_PAUSE_S = 1e-4
"""Sleep after each family. It releases the interpreter lock, for which the event loop's thread would otherwise wait 5 ms a time."""


class Exposition:
    """Renders a registry; :meth:`render` may run on any thread.

    Args:
        registry: the metrics to show.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # Without this, every series has a second one with the moment of its creation, which is of no use here.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._families = _PausedRegistry(registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the text and its content type.

        Args:
            accept: the value of the request's Accept header; empty where there is none.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._families), content_type


class _PausedRegistry(Collector):
    """A registry that lets other threads run after each family."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yields the families of the registry."""
        for family in self._registry.collect():
            yield family
            time.sleep(_PAUSE_S)
