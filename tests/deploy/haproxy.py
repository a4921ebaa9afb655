# SPDX-License-Identifier: Apache-2.0
"""HAProxy of Debian with ``deploy/proxy/haproxy.cfg``, on free ports of the loopback."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.debian import unpacked
from tests.deploy.prometheus import free_port
from tests.e2e.serving import eventually
from tests.fakes.dns import NAME

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy/proxy/haproxy.cfg"
PACKAGES = (
    "haproxy", "libc6", "libcrypt1", "libgcc-s1", "libjemalloc2", "liblua5.4-0", "libopentracing-c-wrapper0t64", "libopentracing1",
    "libpcre2-8-0", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g",
)  # fmt: skip
"""The program and its libraries."""
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def program() -> list[str]:
    """The command: the loader of the packages' release starts it, with the libraries of that release."""
    files = unpacked(*PACKAGES)
    libraries = files / LIBRARIES
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(files / "usr/sbin/haproxy")]


@dataclass
class Proxy:
    """A running HAProxy."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    admin: Path
    log: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self, text: str) -> str:
        """The answer to a command of the admin socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.admin))
            connection.sendall(f"{text}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def servers(self) -> dict[str, dict[str, str]]:
        """The servers that have an address ("127.0.0.1:8001"), by it: the fields of ``show stat``, such as svname and status."""
        rows = csv.DictReader(io.StringIO(self.command("show stat").removeprefix("# ")))
        return {row["addr"]: row for row in rows if row["pxname"] == "attnserve" and row["addr"]}

    def up(self) -> set[str]:
        """Addresses of the servers that get requests."""
        return {address for address, row in self.servers().items() if row["status"].startswith("UP")}

    def metrics(self) -> str:
        """The page of metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as response:
            return str(response.read().decode())

    def tail(self) -> str:
        """The end of its log, for a failed assertion."""
        return self.log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def proxy(folder: Path, nameserver: int, ports: tuple[int, int], config: Path = CONFIG) -> Iterator[Proxy]:
    """Starts HAProxy before the servers that a DNS server on the loopback names; ends it.

    Args:
        folder: for its socket and log.
        nameserver: port of the DNS server.
        ports: of the servers: gRPC, HTTP.
        config: the file to use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, metrics_port, admin, log = free_port(), free_port(), folder / "admin.sock", folder / "haproxy.log"
    variables = {
        "SERVERS": NAME,
        "NAMESERVER": f"127.0.0.1:{nameserver}",
        "PORT": str(ports[0]),
        "PAGES": str(ports[1]),
        "BIND": f"127.0.0.1:{port}",
        "ADMIN": str(admin),
        "METRICS": f"127.0.0.1:{metrics_port}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*program(), "-f", str(config)],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        started = Proxy(process, port, metrics_port, admin, log)
        eventually(lambda: admin.exists() or process.poll() is not None, "the admin socket")
        assert process.poll() is None, started.tail()
        yield started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)
