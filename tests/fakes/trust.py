# SPDX-License-Identifier: Apache-2.0
"""Certificates and tokens in files, and a recorder of reloads."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import trustme

from attnserve_server.config_trust import TlsConfig

NAMES = ("localhost", "127.0.0.1")


def chain_of(cert: trustme.LeafCert) -> bytes:
    return b"".join(part.bytes() for part in cert.cert_chain_pems)


def seconds_from_now(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


class Files:
    """The files of a server's TLS, in a folder; and the credentials of clients.

    Args:
        folder: of the files.
        is_mutual: whether clients must have certificates.
    """

    def __init__(self, folder: Path, *, is_mutual: bool = False) -> None:
        self.folder, self.ca, self.client_ca = folder, trustme.CA(), trustme.CA()
        self.chain, self.key, self.ca_file = folder / "server.pem", folder / "server.key", folder / "clients.pem"
        self.issue()
        self.trust_clients_of(self.client_ca)
        self.config = TlsConfig(certificate=str(self.chain), key=str(self.key), client_ca=str(self.ca_file) if is_mutual else "")

    def issue(self, **options: Any) -> trustme.LeafCert:
        """Replaces the server's certificate and key."""
        self.cert = self.ca.issue_cert(*NAMES, **options)
        replace(self.chain, chain_of(self.cert))
        replace(self.key, self.cert.private_key_pem.bytes())
        return self.cert

    def trust_clients_of(self, ca: trustme.CA) -> None:
        """Replaces the CA of clients."""
        self.client_ca = ca
        replace(self.ca_file, ca.cert_pem.bytes())

    def client(self, ca: trustme.CA | None = None) -> trustme.LeafCert:
        """A client's certificate, of the CA that the server trusts or another one."""
        return (ca or self.client_ca).issue_cert("robot@example.org", common_name="robot")

    def credentials(self, cert: trustme.LeafCert | None = None, ca: trustme.CA | None = None) -> grpc.ChannelCredentials:
        """Credentials of a client that trusts the server's CA or another one."""
        own = (None, None) if cert is None else (cert.private_key_pem.bytes(), chain_of(cert))
        return grpc.ssl_channel_credentials((ca or self.ca).cert_pem.bytes(), *own)


def replace(path: Path, content: bytes) -> None:
    """Replaces a file at once, as a mounted secret is."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def token_line(name: str, token: str, *rest: str) -> str:
    return " ".join((name, hashlib.sha256(token.encode()).hexdigest(), *rest)) + "\n"


class TrustRecorder:
    """Counts what happened."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.expiry: dict[str, float] = {}

    def reloaded(self, what: str) -> None:
        self.counted[f"{what} reloaded"] += 1

    def reload_failed(self, what: str) -> None:
        self.counted[f"{what} failed"] += 1

    def set_expiry(self, certificate: str, timestamp_s: float) -> None:
        self.expiry[certificate] = timestamp_s

    def handshake(self) -> None:
        self.counted["handshakes"] += 1
