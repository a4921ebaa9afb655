# SPDX-License-Identifier: Apache-2.0
"""The transport's own section of the configuration (``config.py`` reads it). Must not import grpc: printing it is quick."""

from __future__ import annotations

from typing import Annotated

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class GrpcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where gRPC listens, and what it takes of one client."""

    host: str = "127.0.0.1"
    """Address to bind; anything but the loopback opens the server to the network."""
    port: Port = 8001
    """0 picks a free one."""
    max_message_bytes: Positive = 4 * 1024 * 1024
    """Requests above are refused by gRPC itself with RESOURCE_EXHAUSTED."""
    max_concurrent_streams: Positive = 1024
    """RPCs of one connection at a time; the client holds back the others."""
    keepalive_seconds: Seconds = 60.0
    """The server pings a silent connection this often ..."""
    keepalive_timeout_seconds: Seconds = 20.0
    """... and closes it when no answer comes for so long, which cancels what its client had asked for."""
    min_ping_interval_seconds: Seconds = 10.0
    """A client may ping this often, with or without running RPCs, before it is sent away."""
    reflection: bool = True
    """Whether the services can be listed by ``grpc.reflection``."""
