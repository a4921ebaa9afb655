# SPDX-License-Identifier: Apache-2.0
"""Sections of the configuration for TLS and tokens; see ``docs/security.md``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from attnserve_server.setting_types import Flag


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS of both ports. The files are read again when they change."""

    certificate: Annotated[str, Flag("Certificate chain (PEM); turns TLS on, on both ports", "tls_cert")] = ""
    key: Annotated[str, Flag("Private key of the certificate (PEM, without a password)", "tls_key")] = ""
    client_ca: Annotated[str, Flag("CA of client certificates (PEM), which are then required", "tls_client_ca")] = ""


class TokensConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tokens of clients. The file is read again when it changes."""

    file: Annotated[str, Flag("File of tokens: lines of name, SHA-256, scopes, calls a second", "tokens")] = ""
    """Empty for none: every client may make every call."""
