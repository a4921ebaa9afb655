# SPDX-License-Identifier: Apache-2.0
"""The shared part of both clients' channels."""

from __future__ import annotations

import re

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Short reconnect back-off: a retry has no effect while the channel itself still waits to reconnect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_SANE_ID = re.compile(r"[!-~]{1,128}")
_SANE_TOKEN = re.compile(r"[!-~]{1,4096}")


def metadata_of(client_id: str, token: str = "") -> tuple[tuple[str, str], ...]:
    """Returns the metadata of every call of a client; none for an empty id or token.

    Raises:
        ValueError: the id or the token is invalid.
    """
    if client_id and not _SANE_ID.fullmatch(client_id):
        raise ValueError(f"client_id must be 1 to 128 visible ASCII characters, not {client_id!r}")
    if token and not _SANE_TOKEN.fullmatch(token):
        raise ValueError("token must be 1 to 4096 visible ASCII characters")
    named = (("x-client-id", client_id),) if client_id else ()
    return (*named, ("authorization", f"Bearer {token}")) if token else named
