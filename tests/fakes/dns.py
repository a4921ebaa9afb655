# SPDX-License-Identifier: Apache-2.0
"""A DNS server on the loopback for one name, whose addresses a test changes, as a headless Service of Kubernetes does."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

NAME = "attnserve.test"
A, IN, NAME_OF_QUESTION = 1, 1, 0xC00C
OK, NO_SUCH_NAME = 0x8180, 0x8183
"""Flags of an answer (RFC 1035, section 4.1.1)."""


class NameServer:
    """Answers queries over UDP until it is closed.

    Args:
        addresses: IPv4 addresses of the name; there are none of IPv6.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses, self.num_queries = list(addresses), 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def target(self, port: int) -> str:
        """A target of gRPC that asks this server: ``NAME`` at a port."""
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"

    def close(self) -> None:
        """Ends the thread."""
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as own:
            own.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()

    def _run(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            self.num_queries += 1
            self._socket.sendto(answer(query, list(self.addresses)), client)


def answer(query: bytes, addresses: Sequence[str]) -> bytes:
    """The answer to a query: its question, and one record of each address if it is of type A; none may be kept by the client."""
    labels, end = [], 12
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode())
        end += query[end] + 1
    is_known = ".".join(labels).lower() == NAME
    (kind,) = struct.unpack(">H", query[end + 1 : end + 3])
    found = addresses if is_known and kind == A else []
    header = query[:2] + struct.pack(">HHHHH", OK if is_known else NO_SUCH_NAME, 1, len(found), 0, 0)
    records = [struct.pack(">HHHIH", NAME_OF_QUESTION, A, IN, 0, 4) + socket.inet_aton(address) for address in found]
    return header + query[12 : end + 5] + b"".join(records)


@contextlib.contextmanager
def name_server(*addresses: str) -> Iterator[NameServer]:
    """Starts a server, and closes it."""
    server = NameServer(addresses)
    try:
        yield server
    finally:
        server.close()
