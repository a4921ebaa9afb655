# SPDX-License-Identifier: Apache-2.0
"""The server's certificate, its key and the CA of clients: read, checked, and made into TLS contexts."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnserve_server.config_trust import TlsConfig
from attnserve_server.errors import ConfigError, TrustError
from attnserve_server.transport.reload import Reloaded, read_file

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MAX_FILE_BYTES = 1_000_000
"""Larger files of certificates are refused."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a TLS server shows and trusts.

    Attributes:
        chain: the server's certificate and those between it and its CA, PEM.
        key: the private key of the first one, PEM.
        client_ca: certificates that sign clients' certificates, PEM; None if clients need none.
        context: of HTTP, with the same content.
        expiry: when the first certificate of the chain or of the client CA expires, in seconds since 1970, by "server" and
            "client_ca".
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    expiry: dict[str, float]


class CurrentContext(ssl.SSLContext):
    """A context for asyncio that starts each connection with the context of the current certificates.

    A context cannot forget a CA, so new files need a new context, and a listening server cannot change its own.
    """

    def __new__(cls, certificates: Reloaded[Certificates]) -> CurrentContext:
        """Makes a context for servers."""
        del certificates
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificates: Reloaded[Certificates]) -> None:
        self._certificates = certificates

    def wrap_bio(self, *args: Any, **rest: Any) -> ssl.SSLObject:
        """Starts a connection."""
        return self._certificates.value.context.wrap_bio(*args, **rest)


def certificate_files(config: TlsConfig) -> list[Path]:
    """Returns the files that the configuration names; none if TLS is off.

    Raises:
        ConfigError: there is a certificate without a key, or a key or a client CA without a certificate.
    """
    if bool(config.certificate) != bool(config.key):
        raise ConfigError("tls.certificate and tls.key must be given together")
    if config.client_ca and not config.certificate:
        raise ConfigError("tls.client_ca needs tls.certificate and tls.key")
    return [Path(name) for name in (config.certificate, config.key, config.client_ca) if name]


def read_certificates(config: TlsConfig) -> Certificates:
    """Reads and checks the files of a configuration with a certificate.

    Raises:
        TrustError: a file cannot be read or parsed, the key is not the certificate's, or a certificate is not valid now.
    """
    chain_file, key_file = Path(config.certificate), Path(config.key)
    chain, key = read_file(chain_file, MAX_FILE_BYTES), read_file(key_file, MAX_FILE_BYTES)
    parsed = _parsed(chain_file, chain)
    if _private_key(key_file, key).public_key() != parsed[0].public_key():
        raise TrustError(f"{key_file}: not the key of the certificate in {chain_file}")
    expiry, client_ca = {"server": _expiry(chain_file, parsed)}, None
    if config.client_ca:
        ca_file = Path(config.client_ca)
        client_ca = read_file(ca_file, MAX_FILE_BYTES)
        expiry["client_ca"] = _expiry(ca_file, _parsed(ca_file, client_ca))
    return Certificates(chain, key, client_ca, _context(chain_file, key_file, client_ca), expiry)


def _context(chain_file: Path, key_file: Path, client_ca: bytes | None) -> ssl.SSLContext:
    """Returns a context for HTTP; TLS 1.2 is the oldest version that it accepts.

    Raises:
        TrustError: OpenSSL refuses the files, or they have changed since they were checked and do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(chain_file, key_file, password=lambda: "")  # never asks at a terminal
        if client_ca is not None:
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise TrustError(f"{chain_file}: cannot be used: {type(error).__name__}") from None
    return context


def _parsed(file: Path, content: bytes) -> list[Certificate]:
    from cryptography import x509  # takes 60 ms and is needed only for TLS

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TrustError(f"{file}: no certificates in PEM form") from None


def _private_key(file: Path, content: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        raise TrustError(f"{file}: no private key in PEM form without a password") from None


def _expiry(file: Path, certificates: list[Certificate]) -> float:
    """Returns when the first of these certificates expires.

    Raises:
        TrustError: one of them is not valid now.
    """
    now = datetime.datetime.now(datetime.UTC)
    for certificate in certificates:
        if certificate.not_valid_after_utc <= now:
            raise TrustError(f"{file}: a certificate expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        if certificate.not_valid_before_utc > now:
            raise TrustError(f"{file}: a certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
