# SPDX-License-Identifier: Apache-2.0
"""A decoder of clips whose slow ones take as long as a test wants. It answers with one black frame, and reads names, not files.

``python slow_decoder.py FOLDER`` is the process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from attnserve_server.tasks.clips import wire
from attnserve_server.tasks.clips.wire import Decoded, Wanted

_BEGUN, _MAY_END = "begun", "may end"


class SlowDecoder:
    """The test's side.

    Args:
        folder: where test and processes meet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.command = (sys.executable, __file__, str(folder))

    @staticmethod
    def clip(name: str) -> bytes:
        """A file that passes for a GIF; it is slow if its name begins with "slow"."""
        return b"GIF89a\x20\0\x20\0%b;" % name.encode()  # of 32 x 32 pixels

    def begun(self) -> dict[str, int]:
        """The clips whose decoding has begun: the process id of each by its name."""
        path = self._folder / _BEGUN
        lines = path.read_text().splitlines() if path.exists() else []
        return {name: int(pid) for pid, name in map(str.split, lines)}

    def is_running(self, name: str) -> bool:
        """Whether the process that has begun a clip is there, perhaps as one that has ended and is not waited for."""
        try:
            os.kill(self.begun()[name], 0)
        except ProcessLookupError:
            return False
        return True

    def let_end(self) -> None:
        """Lets the slow ones be answered."""
        (self._folder / _MAY_END).touch()

    def hold(self) -> None:
        """Lets the slow ones that come from now on wait again."""
        (self._folder / _MAY_END).unlink()


def main(folder: Path) -> None:
    """Answers clips until the socket that is standard input is closed."""
    signal.alarm(60)
    end = socket.socket(fileno=os.dup(0))
    wire.send(end, wire.Hello())
    while True:
        wanted, data = msgspec.msgpack.decode(wire.receive(end), type=Wanted), wire.receive(end)
        name = data[10:-1].decode()
        with (folder / _BEGUN).open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
        while name.startswith("slow") and not (folder / _MAY_END).exists():
            time.sleep(0.005)
        wire.send(end, Decoded(1, [0] * wanted.frames, [0.0] * wanted.frames, []), bytes(wanted.width * wanted.height * 3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
