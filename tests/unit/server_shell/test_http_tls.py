# SPDX-License-Identifier: Apache-2.0
"""/metrics and /healthz over TLS, with certificates that are replaced, and over a plain port beside it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry

from attnserve_server.config_trust import TokensConfig
from attnserve_server.metrics.exposition import Exposition
from attnserve_server.transport.http.server import HttpServer
from attnserve_server.transport.trust import Trust
from tests.fakes.trust import Files, TrustRecorder, replace

pytestmark = pytest.mark.every_loop


@contextlib.asynccontextmanager
async def serving(trust: Trust) -> AsyncIterator[int]:
    """A server, by its port."""
    server = HttpServer("127.0.0.1", 0, Exposition(CollectorRegistry()), lambda: (True, "ok"), tls=trust.context())
    yield await server.start()
    await server.stop()


def trust_of(files: Files) -> Trust:
    return Trust(files.config, TokensConfig(), TrustRecorder())


def client_of(ca: trustme.CA, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    return context


async def get(port: int, context: ssl.SSLContext | None) -> str:
    """The status line of a GET; raises the error of a connection that is refused."""
    name = None if context is None else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n")[0]
    finally:
        writer.close()


async def is_refused(port: int, context: ssl.SSLContext) -> bool:
    """Whether a connection ends without an answer; in TLS 1.3 the server refuses a certificate after the client's handshake."""
    try:
        return await get(port, context) == ""
    except (ssl.SSLError, ConnectionError):
        return True


async def test_pages_over_tls(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with serving(trust_of(files)) as port:
        assert await get(port, client_of(files.ca)) == "HTTP/1.1 200 OK"
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(port, client_of(trustme.CA()))
        assert "200" not in await get(port, None)


async def test_clients_without_a_certificate_are_refused(tmp_path: Path) -> None:
    files = Files(tmp_path, is_mutual=True)
    async with serving(trust_of(files)) as port:
        assert await get(port, client_of(files.ca, files.client())) == "HTTP/1.1 200 OK"
        for cert in (None, files.client(trustme.CA())):
            assert await is_refused(port, client_of(files.ca, cert))


async def test_certificate_and_client_ca_are_replaced_for_new_connections(tmp_path: Path) -> None:
    files = Files(tmp_path, is_mutual=True)
    trust, old = trust_of(files), files.client()
    old_ca = files.ca
    async with serving(trust) as port:
        files.ca = trustme.CA()
        files.issue()
        files.trust_clients_of(trustme.CA())
        trust.check()
        assert await get(port, client_of(files.ca, files.client())) == "HTTP/1.1 200 OK"
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(port, client_of(old_ca, files.client()))
        assert await is_refused(port, client_of(files.ca, old))
        replace(files.key, b"garbage")
        trust.check()
        assert await get(port, client_of(files.ca, files.client())) == "HTTP/1.1 200 OK"
