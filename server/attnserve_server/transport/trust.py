# SPDX-License-Identifier: Apache-2.0
"""Certificates and tokens of the whole server, kept as their files are. ``app.py`` makes, starts and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import ssl
from pathlib import Path
from typing import Any, Protocol

from attnserve_server.config_trust import TlsConfig, TokensConfig
from attnserve_server.transport.certificates import Certificates, CurrentContext, certificate_files, read_certificates
from attnserve_server.transport.reload import Reloaded, ReloadRecorder
from attnserve_server.transport.rpc.access import Access
from attnserve_server.transport.rpc.credentials import server_credentials
from attnserve_server.transport.tokens import TokenTable, read_tokens

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
"""Seconds between two looks at the files, so also the longest time that a revoked token stays valid."""

TLS, TOKENS = "certificates", "tokens"
"""Names of the two values in the log and as labels."""


class TrustRecorder(ReloadRecorder, Protocol):
    """Counts reloads and handshakes (``metrics.trust.TrustMetrics``)."""

    def set_expiry(self, certificate: str, timestamp_s: float) -> None:
        """Sets when the certificate "server" or "client_ca" expires, in seconds since 1970."""
        ...

    def handshake(self) -> None:
        """Counts one TLS handshake that began. Called on any thread."""
        ...


class Trust:
    """Reads the files, and reads them again within a second after they change.

    Attributes:
        access: names the client of each call.

    Args:
        tls: files of TLS; without a certificate, connections are plain.
        tokens: file of the tokens; without one, calls need none.
        recorder: counts reloads and handshakes.
        period_s: seconds between two looks at the files.

    Raises:
        ConfigError: the configuration of TLS is not complete.
        TrustError: a file cannot be used.
    """

    def __init__(self, tls: TlsConfig, tokens: TokensConfig, recorder: TrustRecorder, period_s: float = PERIOD_S) -> None:
        self._recorder, self._period_s = recorder, period_s
        self._certificates: Reloaded[Certificates] | None = None
        self._tokens: Reloaded[TokenTable] | None = None
        self._watching: asyncio.Task[None] | None = None
        if files := certificate_files(tls):
            self._certificates = Reloaded(TLS, files, functools.partial(read_certificates, tls), recorder)
            self._show_expiry(self._certificates.value)
        if tokens.file:
            file = Path(tokens.file)
            self._tokens = Reloaded(TOKENS, [file], functools.partial(read_tokens, file), recorder)
        self.access = Access(self._tokens, has_certificates=bool(tls.client_ca))

    def credentials(self) -> Any:
        """Returns gRPC's credentials; None for plain connections."""
        return None if self._certificates is None else server_credentials(self._certificates, self._recorder.handshake)

    def context(self) -> ssl.SSLContext | None:
        """Returns HTTP's context; None for plain connections."""
        return None if self._certificates is None else CurrentContext(self._certificates)

    def warn_about(self, host: str) -> None:
        """Logs a warning if tokens would cross the network in plain text to this host."""
        if self._tokens is not None and self._certificates is None and not _is_loopback(host):
            logger.warning("tokens are used without TLS on %s: the network can read them", host)

    def start(self) -> None:
        """Begins to look at the files, on the running event loop."""
        if self._certificates is not None or self._tokens is not None:
            self._watching = asyncio.create_task(self._watch(), name="trust")

    async def stop(self) -> None:
        """Ends it; does nothing if it was not started."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    def check(self) -> None:
        """Reads the files that have changed."""
        if self._certificates is not None and self._certificates.check():
            self._show_expiry(self._certificates.value)
        if self._tokens is not None:
            self._tokens.check()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            try:
                self.check()
            except Exception:
                logger.exception("the files of certificates and tokens were not read")

    def _show_expiry(self, certificates: Certificates) -> None:
        for certificate, timestamp_s in certificates.expiry.items():
            self._recorder.set_expiry(certificate, timestamp_s)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
