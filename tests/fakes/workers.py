# SPDX-License-Identifier: Apache-2.0
"""A program in place of a worker's interpreter: it says hello, and reads until the front closes its end. It starts in milliseconds."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import psutil

from attnserve_server.engine.link.messages import ENCODER, Hello

_PROGRAM = """#!{python} -SE
import socket, sys
link = socket.socket(fileno=int(sys.argv[3]))
link.sendall({hello!r})
while link.recv(4096):
    pass
"""


def write_interpreter(file: Path, hello: Hello | None = None) -> str:
    """Writes the program; returns its path."""
    said = ENCODER.encode(hello or Hello("cpu", "1.31.1"))
    file.write_text(_PROGRAM.format(python=sys.executable, hello=struct.pack("<I", len(said)) + said), encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def children() -> set[int]:
    """The children of this process, with those that have ended and have not been waited for."""
    return {child.pid for child in psutil.Process().children()}
