# SPDX-License-Identifier: Apache-2.0
"""A server as a child process on free ports, for the duration of a demo."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from attnserve_client.errors import ToolError
from attnserve_client.security import Security

SERVER_COMMAND = (sys.executable, "-m", "attnserve_server")

_START_S, _STOP_S, _POLL_S = 120.0, 20.0, 0.05
_LOG_TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a ready server, on 127.0.0.1."""

    grpc: int
    http: int


class DemoServer:
    """Starts a server on entry and ends it on exit, also after an error.

    Args:
        arguments: passed to the server, in addition to its ports.
        command: starts the server.
        environment: of the server's process; None for that of this process.
        security: how to read its metrics, if ``arguments`` turn TLS on.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        command: Sequence[str] = SERVER_COMMAND,
        environment: Mapping[str, str] | None = None,
        security: Security = Security(),  # noqa: B008 - frozen
    ) -> None:
        self._environment, self._security = environment, security
        self._command = [*command, "--grpc-port", "0", "--http-port", "0", *arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="attnserve-demo-")
        self._log, self._ready = Path(self._folder.name, "server.log"), Path(self._folder.name, "ready.json")
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: Ports | None = None

    def __enter__(self) -> Self:
        """Starts the process; see ``wait_ready`` for when it is ready."""
        with self._log.open("wb") as log:
            command = [*self._command, "--ready-file", str(self._ready)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the process, by force if it is still running, and removes its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """Process id of the server.

        Raises:
            ToolError: it has not been started.
        """
        return self._started().pid

    def wait_ready(self, timeout: float = _START_S) -> Ports:
        """Waits until the server reports that it is ready.

        Raises:
            ToolError: it ended first, or took more than ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._ready.exists():
            if self._started().poll() is not None:
                raise ToolError(f"the server ended with exit code {self._started().returncode} before it was ready")
            if time.monotonic() > deadline:
                raise ToolError(f"the server was not ready within {timeout:g} s")
            time.sleep(_POLL_S)
        ready = json.loads(self._ready.read_text(encoding="utf-8"))
        self._ports = Ports(ready["grpc_port"], ready["http_port"])
        return self._ports

    def stop(self) -> None:
        """Stops the server gracefully, and waits for its end.

        Raises:
            ToolError: it does not end in time, or its exit code is not 0.
        """
        self._started().terminate()
        try:
            code = self._started().wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"the server did not stop within {_STOP_S:g} s") from error
        if code != 0:
            raise ToolError(f"the server stopped with exit code {code}")

    def metrics(self) -> str:
        """Returns the server's metrics in Prometheus' text format.

        Raises:
            OSError: they cannot be read, or a file of TLS cannot.
            ToolError: the server is not ready.
        """
        if self._ports is None:
            raise ToolError("the server is not ready")
        context = self._security.context()
        direct = urllib.request.build_opener(  # local address: no proxy
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with direct.open(f"{self.scheme}://127.0.0.1:{self._ports.http}/metrics", timeout=5) as response:
            return str(response.read(), "utf-8")

    @property
    def scheme(self) -> str:
        """The scheme of the HTTP port's URLs."""
        return "https" if self._security.has_tls else "http"

    def log_tail(self) -> str:
        """Returns the last lines of the server's log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ToolError("the server has not been started")
        return self._process
