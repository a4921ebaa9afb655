# SPDX-License-Identifier: Apache-2.0
"""The addresses that a server listens on: all that a host name resolves to, the same for gRPC and HTTP."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import NamedTuple

from attnserve_server.errors import StartupError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address of a family that this machine does not have: ``localhost`` often resolves to ::1 without IPv6."""


class Address(NamedTuple):
    """A numeric address."""

    family: socket.AddressFamily
    host: str

    def at(self, port: int) -> str:
        """Returns it with a port, as gRPC takes it and logs show it."""
        return shown(self.host, port)


def shown(host: str, port: int) -> str:
    """Returns a host, name or address, with its port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def addresses_of(host: str, port: int, what: str) -> list[Address]:
    """Returns all addresses of a host that this machine has.

    Args:
        host: a name or a numeric address.
        port: for the message.
        what: which server listens, for the message.

    Raises:
        StartupError: it does not resolve, or no address is this machine's.
    """
    try:  # by the socket module on every loop; uvloop's own method does not use it
        found = await asyncio.to_thread(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        numeric = [(family, socket.getnameinfo(address, socket.NI_NUMERICHOST)[0]) for family, _, _, _, address in found]
    except (OSError, UnicodeError) as error:
        raise cannot_listen(what, shown(host, port), error) from error
    addresses = [Address(*each) for each in dict.fromkeys(numeric)]
    refusals = {address: _refusal(address) for address in addresses}
    usable = [address for address in addresses if refusals[address] is None]
    if not usable:
        raise cannot_listen(what, shown(host, port), next(iter(refusals.values())))
    return usable


def cannot_listen(what: str, address: str, error: Exception | None) -> StartupError:
    """Returns the error of a server that cannot bind."""
    return StartupError(f"{what} cannot listen on {address}: {getattr(error, 'strerror', None) or error}")


def bound_socket(address: Address, port: int) -> socket.socket:
    """Returns a TCP socket that is bound, and does not listen yet.

    Raises:
        OSError: it cannot be bound.
    """
    # With protocol 0, asyncio does not recognize TCP and leaves Nagle's algorithm on.
    bound = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        info = socket.getaddrinfo(address.host, port, address.family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        bound.bind(info[0][4])
    except OSError:
        bound.close()
        raise
    return bound


def _refusal(address: Address) -> OSError | None:
    """Returns why this machine does not have an address; None if it has it."""
    try:
        bound_socket(address, 0).close()
    except OSError as error:
        return error if error.errno in _NOT_HERE else None
    return None
