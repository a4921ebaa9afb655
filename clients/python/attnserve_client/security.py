# SPDX-License-Identifier: Apache-2.0
"""TLS and tokens of a client, from files; and the likely cause of a connection that TLS refused."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

VARIABLES = {
    "ca": "ATTNSERVE_CA",
    "cert": "ATTNSERVE_CERT",
    "key": "ATTNSERVE_KEY",
    "token_file": "ATTNSERVE_TOKEN_FILE",
}
"""Environment variable of each field of :class:`Security`."""

_TOKEN = re.compile(r"[!-~]{1,4096}")
_CAUSES = (
    ("certificate has expired", "the server's certificate has expired"),
    ("certificate is not yet valid", "the server's certificate is not valid yet; is a clock wrong?"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not of the CA that this client trusts"),
    ("Hostname Verification Check failed", "the server's certificate does not name the host of the address"),
    ("WRONG_VERSION_NUMBER", "the server does not use TLS on this port"),
)
_CLOSED_SIGNS = ("Socket closed", "Connection reset by peer", "Broken pipe")
_CLOSED = "the server may need TLS (its CA is missing here), or a client certificate of a CA that it trusts"


def tls_credentials(
    ca: str | Path | None = None, cert: str | Path | None = None, key: str | Path | None = None
) -> grpc.ChannelCredentials:
    """Returns credentials for TLS, for the clients' ``credentials``.

    Args:
        ca: file of the certificates (PEM) of which the server's must be; None for gRPC's list of public CAs.
        cert: file of this client's certificate chain (PEM), for servers that require one.
        key: file of its private key (PEM).

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not PEM, only one of ``cert`` and ``key`` is given, or they do not belong together.
    """
    tls_context(ca, cert, key)  # gRPC would report faults only when it connects, and not name the file
    roots, own_key, own_chain = (None if file is None else Path(file).read_bytes() for file in (ca, key, cert))
    return grpc.ssl_channel_credentials(roots, own_key, own_chain)


def tls_context(ca: str | Path | None = None, cert: str | Path | None = None, key: str | Path | None = None) -> ssl.SSLContext:
    """Returns a context for HTTP over TLS; see :func:`tls_credentials`. Without ``ca`` it trusts the system's CAs.

    Raises:
        OSError: as :func:`tls_credentials`.
        ValueError: as :func:`tls_credentials`.
    """
    if (cert is None) != (key is None):
        raise ValueError("a client certificate and its key must be given together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cadata=Path(ca).read_bytes().decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ValueError(f"{ca}: no certificates in PEM form") from None
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password=lambda: "")  # never asks at a terminal
        except (ssl.SSLError, ValueError):
            raise ValueError(f"{cert} and {key} are not a certificate and its key in PEM form") from None
    return context


def read_token(file: str | Path) -> str:
    """Returns the token in a file, without white space around it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold one token of visible ASCII characters.
    """
    token = Path(file).read_text(encoding="utf-8", errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{file}: must hold one token of visible ASCII characters")
    return token


@dataclass(frozen=True, slots=True)
class Security:
    """Files of a client's TLS and token; empty for none. TLS is on if any of the first three is given.

    Attributes:
        ca: certificates (PEM) of which the server's must be.
        cert: the client's certificate chain (PEM).
        key: the private key of it (PEM).
        token_file: holds the token.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    token_file: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Security:
        """Returns the files that the environment names; see :data:`VARIABLES`."""
        return cls(**{field: environ.get(variable, "") for field, variable in VARIABLES.items()})

    @property
    def has_tls(self) -> bool:
        """Whether connections use TLS."""
        return bool(self.ca or self.cert or self.key)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Returns credentials for TLS; None for a plain connection.

        Raises:
            OSError: as :func:`tls_credentials`.
            ValueError: as :func:`tls_credentials`.
        """
        return tls_credentials(self.ca or None, self.cert or None, self.key or None) if self.has_tls else None

    def context(self) -> ssl.SSLContext | None:
        """Returns a context for HTTP over TLS; None for a plain connection.

        Raises:
            OSError: as :func:`tls_credentials`.
            ValueError: as :func:`tls_credentials`.
        """
        return tls_context(self.ca or None, self.cert or None, self.key or None) if self.has_tls else None

    def token(self) -> str:
        """Returns the token; empty for none.

        Raises:
            OSError: the file cannot be read.
            ValueError: as :func:`read_token`.
        """
        return read_token(self.token_file) if self.token_file else ""


def tls_cause(details: str) -> str:
    """Returns why TLS refused a connection, from gRPC's details; empty if it did not."""
    return next((cause for sign, cause in _CAUSES if sign in details), "")


def closed_cause(details: str) -> str:
    """Returns why the server may have closed a connection before the first call; empty if it did not.

    A server that misses a client's certificate, or TLS, says no more than that. The details depend on what either side had sent.
    """
    return _CLOSED if "failed to connect" in details and any(sign in details for sign in _CLOSED_SIGNS) else ""
