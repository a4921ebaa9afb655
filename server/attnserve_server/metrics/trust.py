# SPDX-License-Identifier: Apache-2.0
"""Metrics of certificates and tokens."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge


class TrustMetrics:
    """Counts reloads and handshakes, and shows when certificates expire.

    Args:
        gauge: makes a gauge from its name, its text and its labels.
        counter: makes a counter.
    """

    def __init__(
        self, gauge: Callable[[str, str, tuple[str, ...]], Gauge], counter: Callable[[str, str, tuple[str, ...]], Counter]
    ) -> None:
        self._expiry = gauge(
            "certificate_expiry_timestamp_seconds",
            "When the first certificate of the file expires, in seconds since 1970: server or client_ca.",
            ("certificate",),
        )
        self._reloads = counter("reloads", "Changed files that were read again: certificates or tokens.", ("what",))
        self._failures = counter(
            "reload_failures",
            "Changed files that could not be used, so that the previous ones stay: certificates or tokens.",
            ("what",),
        )
        self._handshakes = counter(
            "tls_handshakes", "TLS handshakes that began on the gRPC port; those that fail are counted too.", ()
        )

    def set_expiry(self, certificate: str, timestamp_s: float) -> None:
        """Sets when a certificate expires."""
        self._expiry.labels(certificate).set(timestamp_s)

    def reloaded(self, what: str) -> None:
        """Counts one reload."""
        self._reloads.labels(what).inc()

    def reload_failed(self, what: str) -> None:
        """Counts one changed file that could not be used."""
        self._failures.labels(what).inc()

    def handshake(self) -> None:
        """Counts one handshake, on any thread."""
        self._handshakes.inc()
