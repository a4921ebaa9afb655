# SPDX-License-Identifier: Apache-2.0
"""The TCP connections of this process by the names that gRPC gives to their clients: what they took, and how to close them.

gRPC's Python library neither shows the progress of a message nor cancels one that it has sent, so both are asked of the system.
Linux only; elsewhere no connection is found.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

_DESCRIPTORS = Path("/proc/self/fd")
_BYTES_ACKED = 120
"""Offset of ``tcpi_bytes_acked``, 8 bytes, in ``struct tcp_info`` (linux/tcp.h)."""


def bytes_taken(peers: Collection[str]) -> dict[str, int]:
    """Returns how many bytes each of these clients has acknowledged so far; leaves out those that are not found.

    Args:
        peers: clients as ``ServicerContext.peer`` names them: "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000".
    """
    taken = {}
    for peer, connection in _connections(peers):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        if len(info) >= _BYTES_ACKED + 8:
            taken[peer] = struct.unpack_from("Q", info, _BYTES_ACKED)[0]
    return taken


def close(peers: Collection[str]) -> None:
    """Closes the connections of these clients; gRPC then ends all calls on them."""
    for _, connection in _connections(peers):
        with contextlib.suppress(OSError):  # it has closed meanwhile
            connection.shutdown(socket.SHUT_RDWR)


def _connections(peers: Collection[str]) -> Iterator[tuple[str, socket.socket]]:
    """Yields the wanted connections, each a duplicate that is closed afterwards."""
    wanted = {_endpoint_of(peer): peer for peer in peers}
    names = os.listdir(_DESCRIPTORS) if _DESCRIPTORS.exists() else []  # noqa: PTH208  of thousands of names, no paths
    for name in names:
        try:
            duplicate = os.dup(int(name))
        except OSError:  # it was closed meanwhile
            continue
        try:
            connection = socket.socket(fileno=duplicate)
        except OSError:  # no socket
            os.close(duplicate)
            continue
        with connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):  # not connected
                    host, port = connection.getpeername()[:2]
                    peer = wanted.get((_normal(host), port))
                    if peer is not None:
                        yield peer, connection


def _endpoint_of(peer: str) -> tuple[str, int]:
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _normal(host.strip("[]")), int(port) if port.isdigit() else 0


def _normal(host: str) -> str:
    """Returns one form of an address: IPv4 in IPv6 as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
