# SPDX-License-Identifier: Apache-2.0
"""The faults of the random walk: what is done to a server and its clients while it answers. Each undoes what it did before it returns."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import random
import resource
import select
import signal
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from tests.chaos.walk_questions import Known, answer_of
from tests.e2e.serving import OPTIONS, Server, is_worker

PIPE_BYTES = 4096
"""Of the log's pipe: so small that some tens of lines fill it."""
HELD_S = 0.8
"""How long most faults last."""
ANSWERED_S = 5.0
"""Within this a server answers, though its log is not read."""
JUMP_S = 7200
SOURCE = Path(__file__).parent / "wall_clock.c"


class LogPipe:
    """A pipe for a server's output, read by a thread into a file, except while it is told not to."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._is_read = threading.Event()
        self._is_read.set()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._file.open("ab") as log:
            while self._is_read.wait():
                if select.select([self._reading], [], [], 0.1)[0] and self._is_read.is_set():
                    data = os.read(self._reading, 1 << 16)
                    if not data:
                        return
                    log.write(data)
                    log.flush()

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Within this nothing is read."""
        self._is_read.clear()
        try:
            yield
        finally:
            self._is_read.set()

    def close(self) -> None:
        """After the server has ended."""
        os.close(self.writing)
        self._thread.join(10)
        os.close(self._reading)


class Clock:
    """The wall clock of a server and its workers, moved by a library that is preloaded; the monotonic clock goes on as it does.

    Args:
        folder: for the library; it needs a C compiler.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        library, offset = folder / "wall_clock.so", folder / "offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        offset.write_bytes(bytes(8))
        self.environment: Mapping[str, str] = {"WALK_CLOCK": str(offset), "LD_PRELOAD": str(library)}
        with offset.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)

    def set(self, seconds: int) -> None:
        """The clock is so far ahead from now on."""
        self._shared[:] = struct.pack("q", seconds)


@dataclass
class Scene:
    """What faults act on."""

    server: Server
    pipe: LogPipe
    clock: Clock
    rng: random.Random
    known: list[Known]
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    is_refused: bool = False
    """Whether the server may refuse connections, so that a status may come without the server's own details."""

    def channel(self) -> grpc.aio.Channel:
        """A new connection."""
        return grpc.aio.insecure_channel(self.server.target, options=OPTIONS)

    def worker(self) -> int | None:
        """The process id of a worker that lives; None where none does."""
        workers = list(filter(is_worker, self.server.children()))
        return self.rng.choice(workers) if workers else None

    def cheapest(self) -> Known:
        """The question that takes least."""
        return min(self.known, key=lambda each: each.seconds)


Fault = Callable[[Scene], Awaitable[None]]


def send(pid: int | None, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def kill(scene: Scene) -> None:
    """A worker is killed."""
    send(scene.worker(), signal.SIGKILL)


async def stop(scene: Scene) -> None:
    """A worker is stopped for a while."""
    pid = scene.worker()
    send(pid, signal.SIGSTOP)
    await asyncio.sleep(HELD_S)
    send(pid, signal.SIGCONT)


async def hang(scene: Scene) -> None:
    """A worker is stopped for ever: another takes its place."""
    pid = scene.worker()
    send(pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        while pid in scene.server.children():
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _no_descriptors(scene: Scene) -> AsyncIterator[None]:
    """Within this the front can open nothing; connections may be refused until a moment after it."""
    pid = scene.server.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_now = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    scene.is_refused = True
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await asyncio.sleep(HELD_S)
        scene.is_refused = False


async def descriptors(scene: Scene) -> None:
    """The front runs out of descriptors, and clients connect."""
    async with _no_descriptors(scene):
        for _ in range(4):
            channel = scene.channel()
            with contextlib.suppress(grpc.aio.AioRpcError):
                await answer_of(scene.cheapest().question, channel, HELD_S / 4)
            await channel.close()


async def descriptors_and_kill(scene: Scene) -> None:
    """A worker is killed while the front is out of descriptors, and so cannot start another."""
    async with _no_descriptors(scene):
        send(scene.worker(), signal.SIGKILL)
        await asyncio.sleep(HELD_S)


async def close_channel(scene: Scene) -> None:
    """A connection is closed with everything on it, and another is made."""
    index = scene.rng.randrange(len(scene.channels))
    old, scene.channels[index] = scene.channels[index], scene.channel()
    await old.close()


async def unread_log(scene: Scene) -> None:
    """The log is not read for a while; the server answers within seconds all the same."""
    with scene.pipe.unread():
        await asyncio.sleep(HELD_S)
        channel = scene.channel()
        async with asyncio.timeout(ANSWERED_S + 10):
            for _ in range(40):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await answer_of(scene.cheapest().question, channel, ANSWERED_S)
        await channel.close()


async def jump(scene: Scene) -> None:
    """The wall clock jumps ahead, or back."""
    scene.clock.set(scene.rng.choice([-JUMP_S, JUMP_S]))
    await asyncio.sleep(HELD_S)
    scene.clock.set(0)


FAULTS: Mapping[str, Fault] = {
    "a worker is killed": kill,
    "a worker is stopped and goes on": stop,
    "a worker hangs": hang,
    "the front has no descriptors": descriptors,
    "a worker is killed while the front has no descriptors": descriptors_and_kill,
    "a connection is closed": close_channel,
    "the log is not read": unread_log,
    "the clock jumps": jump,
}
