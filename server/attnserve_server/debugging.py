# SPDX-License-Identifier: Apache-2.0
"""`attnserve debug`: prints what a running server does; plugged into the client's command line by an entry point."""

from __future__ import annotations

import codecs
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from attnserve_server.errors import StartupError
from attnserve_server.transport.debug import END, address, peer_of

ANSWER_S = 15.0
"""Longest wait for the next part of an answer."""

SOCKETS = Path("/proc/net/unix")
_KEPT = len(END) + 2
"""Characters that may be the last line."""
_NAME = re.compile(r"@attnserve-debug-(\d+)$", re.MULTILINE)


class DebugError(StartupError):
    """A server cannot be asked; the message says why."""


def debug(
    pid: Annotated[int | None, typer.Argument(help="Process id of the server; not needed if only one runs.", min=1)] = None,
) -> None:
    """Show what a running server does: queues, slots, requests with their phase, stacks of front and workers.

    It runs on the server's machine or in its container, as its user or root, on Linux. No text of a request is shown.
    """
    try:
        for part in snapshot(only_server() if pid is None else pid):
            sys.stdout.write(part)
    except DebugError as error:
        sys.stdout.flush()
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


def servers() -> list[int]:
    """Returns the process ids of the servers that this user may ask.

    Raises:
        DebugError: the system is not Linux.
    """
    try:
        found = {int(pid) for pid in _NAME.findall(SOCKETS.read_text(encoding="ascii", errors="replace"))}
    except OSError:
        raise DebugError("attnserve debug needs Linux") from None
    users = {pid: _user_of(pid) for pid in found}
    return sorted(pid for pid, user in users.items() if user is not None and os.getuid() in (user, 0))


def only_server() -> int:
    """Returns the process id of the only server.

    Raises:
        DebugError: there is none, or more than one.
    """
    found = servers()
    if not found:
        raise DebugError("no server of this user runs here; in a container, run the command there")
    if len(found) > 1:
        raise DebugError(f"several servers run here: {', '.join(map(str, found))}; name one: attnserve debug PID")
    return found[0]


def snapshot(pid: int) -> Iterator[str]:
    """Yields a server's answer, part by part.

    Raises:
        DebugError: there is no such process, it is another user's, it is no server, or it does not answer.
    """
    user = _user_of(pid)
    if user is None:
        raise DebugError(f"there is no process {pid}")
    if os.getuid() not in (user, 0):
        raise DebugError(f"process {pid} belongs to user {user}; run attnserve debug as that user, or as root")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        try:
            connection.connect(address(pid))
        except OSError:
            raise DebugError(f"process {pid} is no attnserve server, or does not serve yet") from None
        if peer_of(connection)[0] != pid:
            raise DebugError(f"process {pid} is no attnserve server: another process has its socket")
        yield from _received(connection, pid)


def _received(connection: socket.socket, pid: int) -> Iterator[str]:
    """Yields what comes up to the last line, which is not part of it."""
    text, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
    while not text.endswith(f"\n{END}\n"):
        try:
            data = connection.recv(1 << 16)
        except TimeoutError:
            raise DebugError(
                f"server {pid} has not answered for {ANSWER_S:g} s; kill -USR1 {pid} writes its stacks to its standard error"
            ) from None
        except OSError:
            data = b""
        if not data:
            yield text
            raise DebugError(f"server {pid} ended before its answer did")
        text += decoder.decode(data)
        yield text[:-_KEPT]
        text = text[-_KEPT:]
    yield text.removesuffix(f"{END}\n")


def _user_of(pid: int) -> int | None:
    """Returns the user of a process; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
