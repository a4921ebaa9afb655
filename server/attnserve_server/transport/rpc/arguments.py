# SPDX-License-Identifier: Apache-2.0
"""The channel arguments of the gRPC server. Used by ``server.py`` only."""

from __future__ import annotations

from attnserve_server.config_listen import GrpcConfig

MAX_PENDING = 100_000
"""Calls that gRPC core holds until the event loop takes them over; it cancels further ones, without a metric or a log line.

By default it cancels them at random above 1,000, and always above 3,000. Taking one over needs no thread and no queue, so only
what arrives in one turn of the loop waits. The server's own admission decides about all calls that it takes over.
"""

MAX_PENDING_S = 120
"""Seconds that core holds such a call; a loop that is stuck for half of this time ends the process (``http/watchdog.py``)."""


def channel_arguments(config: GrpcConfig) -> list[tuple[str, int]]:
    """Returns gRPC's settings; without SO_REUSEPORT a second server on the port is an error instead of sharing its connections."""
    ping_ms = int(config.min_ping_interval_seconds * 1000)
    age_ms, grace_ms = (int(each * 1000) for each in (config.max_connection_age_seconds, config.max_connection_age_grace_seconds))
    ages = [("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", grace_ms)] if age_ms else []
    return [
        *ages,
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.keepalive_time_ms", int(config.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", ping_ms),
        ("grpc.max_connection_idle_ms", int(config.max_idle_seconds * 1000)),
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.server_max_unrequested_time_in_server", MAX_PENDING_S),
    ]
