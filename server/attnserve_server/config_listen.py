# SPDX-License-Identifier: Apache-2.0
"""Settings of the two ports; part of ``config.py``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from attnserve_server.setting_types import Count, Flag, Name, Port, PositiveSeconds, Seconds


class GrpcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gRPC server."""

    host: Annotated[Name, Flag("Address to bind, both ports")] = "127.0.0.1"
    port: Annotated[Port, Flag("gRPC port, 0 for a free one", "grpc_port")] = 8001
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**31 - 1)] = 12 * 1024 * 1024
    """Larger requests are refused; an image file must fit."""
    max_concurrent_streams: Count = 4096
    """Concurrent RPCs on one connection; further ones wait in the client."""
    keepalive_seconds: PositiveSeconds = 60.0
    """Idle time after which the server pings the client."""
    keepalive_timeout_seconds: PositiveSeconds = 20.0
    """Time without an answer to a ping after which the connection is closed."""
    min_ping_interval_seconds: PositiveSeconds = 10.0
    """Clients that ping more often without sending data are disconnected."""
    max_idle_seconds: PositiveSeconds = 300.0
    """Connections without a request for this time are closed; clients open them again when they need them."""
    max_connection_age_seconds: Seconds = 0.0
    """Age, plus or minus a tenth, at which a connection is closed, so that clients resolve the name again; 0 for none."""
    max_connection_age_grace_seconds: PositiveSeconds = 300.0
    """Time that calls on such a connection have to end; then they are cancelled."""
    max_unread_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**40)] = 512 * 1024 * 1024
    """Answers that clients have not read yet; further ones are refused."""
    max_client_unread_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**40)] = 64 * 1024 * 1024
    """The same, of one client. An answer may be larger if it is the client's only one."""
    stall_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 30.0
    """Connections on which an answer waits and that take nothing for this time are closed."""
    reflection: bool = True
    """Whether the reflection service runs, by which clients list the services."""


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTP server of /metrics and /healthz."""

    host: Annotated[Name, Flag()] = "127.0.0.1"
    port: Annotated[Port, Flag("Port of /metrics and /healthz, 0 for a free one", "http_port")] = 8002
    plain_port: Annotated[int, msgspec.Meta(ge=-1, le=65535)] = -1
    """A second port with the same pages and without TLS, for probes and scrapes; 0 for a free one, -1 for none."""
