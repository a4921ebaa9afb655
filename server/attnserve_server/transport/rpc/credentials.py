# SPDX-License-Identifier: Apache-2.0
"""gRPC's credentials from certificates that may be replaced while the server runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from attnserve_server.transport.certificates import Certificates
from attnserve_server.transport.reload import Reloaded


def server_credentials(certificates: Reloaded[Certificates], on_handshake: Callable[[], None]) -> Any:
    """Returns credentials that start each connection with the current certificates; open connections keep theirs.

    Args:
        certificates: the current ones. With a client CA, clients without a certificate of it cannot connect.
        on_handshake: called on a thread of gRPC before each handshake.
    """
    sent = certificates.value

    def fetch() -> Any:
        nonlocal sent
        on_handshake()
        current = certificates.value
        if current is sent:
            return None
        sent = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(_configuration(sent), fetch, sent.client_ca is not None)


def _configuration(certificates: Certificates) -> Any:
    return grpc.ssl_server_certificate_configuration([(certificates.key, certificates.chain)], certificates.client_ca)
