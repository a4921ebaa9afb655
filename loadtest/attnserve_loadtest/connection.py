# SPDX-License-Identifier: Apache-2.0
"""Raw channels to a server, plain or with TLS, and the metadata of calls."""

from __future__ import annotations

import grpc
import grpc.aio

from attnserve_client.channel import metadata_of
from attnserve_client.errors import ToolError
from attnserve_client.security import Security

Metadata = tuple[tuple[str, str], ...]


def blocking_channel(address: str, security: Security) -> tuple[grpc.Channel, Metadata]:
    """Returns a channel, and the metadata of its calls.

    Raises:
        ToolError: a file cannot be used.
    """
    credentials, metadata = credentials_of(security)
    channel = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    return channel, metadata


def aio_channel(address: str, security: Security) -> tuple[grpc.aio.Channel, Metadata]:
    """Returns a channel of the running event loop, and the metadata of its calls.

    Raises:
        ToolError: a file cannot be used.
    """
    credentials, metadata = credentials_of(security)
    channel = grpc.aio.insecure_channel(address) if credentials is None else grpc.aio.secure_channel(address, credentials)
    return channel, metadata


def credentials_of(security: Security) -> tuple[grpc.ChannelCredentials | None, Metadata]:
    """Returns the credentials of a channel, None for a plain one, and the metadata of its calls.

    Raises:
        ToolError: a file cannot be used.
    """
    try:
        return security.credentials(), metadata_of("", security.token())
    except (OSError, ValueError) as error:
        raise ToolError(str(error)) from error
