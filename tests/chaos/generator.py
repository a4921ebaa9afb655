# SPDX-License-Identifier: Apache-2.0
"""Generates load in a separate process, so that client and server do not slow each other: raw gRPC, requests serialised beforehand.

``python generator.py`` reads one JSON object from its input (see :class:`Load`) and writes one to its output: a list of
``[due_s, seconds, code]``, one for each request. In an open loop, requests are due at random times (Poisson) whether or not earlier
ones were answered, and their time counts from when they were due, so that the stalls of a server are measured.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass

import grpc
import grpc.aio

METHOD = "/attnserve.v1.TranslationService/Translate"
OPTIONS = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Load:
    """What to send: ``rate`` requests per second, or, if it is 0, ``num_clients`` clients in a closed loop."""

    target: str
    seconds: float
    requests: list[str]
    """Serialised messages, in hexadecimal; sent in turn."""
    rate: float = 0.0
    num_clients: int = 0
    seed: int = 1
    timeout_s: float = 30.0
    client: str = "generator"


@dataclass(frozen=True)
class Sent:
    """One request: when it was due, how long it took from then on, and its status."""

    due_s: float
    seconds: float
    code: str

    @property
    def ended_s(self) -> float:
        return self.due_s + self.seconds


def generate(load: Load) -> list[Sent]:
    """Runs a load in a separate process."""
    process = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(dataclasses.asdict(load)),
        capture_output=True,
        text=True,
        check=False,
        timeout=load.seconds + load.timeout_s + 30,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return [Sent(*each) for each in json.loads(process.stdout)]


class _Sender:
    def __init__(self, load: Load, channel: grpc.aio.Channel) -> None:
        self.load, self.done = load, list[tuple[float, float, str]]()
        self._call = channel.unary_unary(METHOD)
        self._messages = [bytes.fromhex(each) for each in load.requests]
        self._number = 0

    async def send(self, due: float) -> None:
        message = self._messages[self._number % len(self._messages)]
        self._number += 1
        code = "OK"
        try:
            await self._call(message, timeout=self.load.timeout_s, metadata=(("x-client-id", self.load.client),))
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        self.done.append((due - self.began, time.monotonic() - due, code))

    async def run(self) -> None:
        await self._call(self._messages[0], timeout=self.load.timeout_s)
        self.began = time.monotonic()
        await (self._open_loop() if self.load.rate else self._closed_loop())

    async def _open_loop(self) -> None:
        rng, due, tasks = random.Random(self.load.seed), self.began, set[asyncio.Task[None]]()
        while due < self.began + self.load.seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self.send(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += rng.expovariate(self.load.rate)
        await asyncio.gather(*tasks)

    async def _closed_loop(self) -> None:
        async def client() -> None:
            while time.monotonic() < self.began + self.load.seconds:
                await self.send(time.monotonic())

        await asyncio.gather(*(client() for _ in range(self.load.num_clients)))


async def _main() -> None:
    load = Load(**json.load(sys.stdin))
    gc.disable()
    async with grpc.aio.insecure_channel(load.target, options=OPTIONS) as channel:
        sender = _Sender(load, channel)
        await sender.run()
    json.dump(sender.done, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
