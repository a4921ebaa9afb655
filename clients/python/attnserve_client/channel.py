# SPDX-License-Identifier: Apache-2.0
"""The shared part of both clients' channels."""

from __future__ import annotations

import json
import re

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
MAX_REQUEST_BYTES = 16 * 1024 * 1024
UNLIMITED = -1

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    # Answers with attention are large (8 MB for 127 pieces with a beam of 8); a limit would refuse them after all the work.
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Short reconnect back-off: a retry has no effect while the channel itself still waits to reconnect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

BALANCED_SCHEMES = ("dns", "ipv4", "ipv6")
"""Schemes of targets that may name several servers."""
RESOLVE_MS = 500
"""Least milliseconds between two look-ups of a name; gRPC's default is 30 s. A name is looked up when a connection ends."""
SERVICE_CONFIG = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
"""Of a target that may name several servers: calls go to all in turn, except those whose health service says NOT_SERVING.

It has no ``retryPolicy``: see ``calls.py``."""
_BALANCED_OPTIONS = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_MS),
)

_SCHEMES = ("dns", "unix", "unix-abstract", "vsock", "ipv4", "ipv6", "xds")
"""Schemes of gRPC's own targets, which are passed on."""
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


def options_of(address: str) -> tuple[tuple[str, str | int], ...]:
    """Returns the options of a channel to a checked address; those of a target that may name several servers balance over them."""
    is_balanced = address.partition(":")[0] in BALANCED_SCHEMES
    return (*CHANNEL_OPTIONS, *_BALANCED_OPTIONS) if is_balanced else CHANNEL_OPTIONS


def checked_address(address: str) -> str:
    """Returns an address that gRPC takes literally: ``host:port``, or a target with one of gRPC's schemes.

    gRPC itself takes a port modulo 65536, and port 443 where none is given, and reads ``dns://host:port`` as a DNS server.

    Raises:
        ValueError: the address has another form; the text says what is wrong.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "dns":
        if rest.startswith("//"):
            _, slash, rest = rest[2:].partition("/")
            if not slash:
                raise ValueError(f"an address to look up must be dns:///host:port, with three slashes, not {address!r}")
        _check_host_and_port(rest, "dns:///")
    elif scheme not in _SCHEMES:
        before, has_scheme, after = address.partition("://")
        if has_scheme:
            raise ValueError(f"the address must be host:port, without {before}://: {after.rstrip('/')!r} instead of {address!r}")
        _check_host_and_port(address)
    return address


def _check_host_and_port(address: str, prefix: str = "") -> None:
    """Checks an address without the prefix of its scheme.

    Raises:
        ValueError: it is not ``host:port``.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or any(letter.isspace() or letter in "/,@?#" for letter in host):
        raise ValueError(f"the address must be {prefix}host:port, such as {prefix}{DEFAULT_ADDRESS}, not {prefix + address!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"the address must be {prefix}host:port, an IPv6 host in brackets ([::1]:8001), not {prefix + address!r}")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
        raise ValueError(f"the port of an address must be a number from 1 to 65535, not {port!r} as in {prefix + address!r}")
