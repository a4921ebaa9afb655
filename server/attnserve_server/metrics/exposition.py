# SPDX-License-Identifier: Apache-2.0
"""Renders all metrics in the format that a scraper's Accept header selects: Prometheus text or OpenMetrics."""

from __future__ import annotations

import time
from collections.abc import Iterator

import prometheus_client
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

_PAUSE_S = 1e-4
"""Sleep after each family. It releases the interpreter lock, for which the event loop would otherwise wait 5 ms each time."""


class Exposition:
    """Renders a registry; :meth:`render` may run on any thread.

    Args:
        registry: the metrics to show.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # Otherwise every series has a second one with its creation time, which is not needed here.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._families = _PausedRegistry(registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the text and its content type.

        Args:
            accept: value of the request's Accept header; empty if absent.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._families), content_type


class _PausedRegistry(Collector):
    """A registry that yields to other threads after each family."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yields the families of the registry."""
        for family in self._registry.collect():
            yield family
            time.sleep(_PAUSE_S)
