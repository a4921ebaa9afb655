# SPDX-License-Identifier: Apache-2.0
"""A random walk: requests of every task from clients of every kind, while one fault after the other befalls server and clients.

Every call has a deadline and must end by it: with the answer that the question had when it was asked alone, or with a status that
says why there is none.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tests.chaos.walk_faults import Fault, Scene
from tests.chaos.walk_questions import TIMEOUT_S, Known, answer_of, content, whole
from tests.e2e.serving import details

NUM_CHANNELS, AT_ONCE = 4, 24
REQUESTS_PER_FAULT = 125
ENOUGH = 20
"""Wrong ends after which a walk is given up."""
GRACE_S = 10.0
"""What a call may take longer than its deadline, on a machine that starts workers meanwhile."""
REFUSALS = {
    grpc.StatusCode.UNAVAILABLE: {"WORKER_LOST", "MODEL_NOT_READY", "SHUTTING_DOWN"},
    grpc.StatusCode.RESOURCE_EXHAUSTED: {"OVERLOADED"},
}
"""Statuses that say why there is no answer, by their reasons."""
OK, LEFT = "OK", "left"
_DETAILS = "grpc-status-details-bin"


Client = Callable[["Walk", Known, grpc.aio.Channel], Awaitable[bytes | None]]
"""Asks; returns the answer, or None where it left. A status is raised."""


async def plain(_: Walk, known: Known, channel: grpc.aio.Channel) -> bytes | None:
    """Reads the answer as fast as it comes."""
    return await answer_of(known.question, channel)


async def late(walk: Walk, known: Known, channel: grpc.aio.Channel) -> bytes | None:
    """Has a deadline that is most likely too short."""
    try:
        return await answer_of(known.question, channel, walk.rng.uniform(0.001, 2 * known.seconds))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return None
        raise


async def vanish(walk: Walk, known: Known, channel: grpc.aio.Channel) -> bytes | None:
    """Leaves after a moment."""
    call = known.question.ask(channel, TIMEOUT_S)
    await asyncio.sleep(walk.rng.uniform(0.0, 2 * known.seconds))
    call.cancel()
    return None


async def slow(walk: Walk, known: Known, channel: grpc.aio.Channel) -> bytes | None:
    """Waits between the messages of a stream."""
    call = known.question.ask(channel, TIMEOUT_S)
    if not known.question.is_stream:
        await asyncio.sleep(0.1)
        return content(await call)
    messages = []
    async for message in call:
        messages.append(message)
        await asyncio.sleep(walk.rng.uniform(0.0, 0.05))
    return whole(messages)


async def stopped(walk: Walk, known: Known, channel: grpc.aio.Channel) -> bytes | None:
    """Reads one message of a stream and no other, and leaves after a second."""
    call = known.question.ask(channel, TIMEOUT_S)
    if known.question.is_stream:
        await call.read()
    await asyncio.sleep(walk.rng.uniform(0.2, 1.0))
    call.cancel()
    return None


CLIENTS: Mapping[Client, int] = {plain: 70, slow: 10, late: 8, vanish: 8, stopped: 4}
"""How often each kind of client comes."""


@dataclass
class Walk:
    """One walk, reproducible by its seed but for what the machine's speed decides."""

    scene: Scene
    faults: Mapping[str, Fault]
    seed: int
    ends: Counter[str] = field(default_factory=Counter)
    befell: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._deck = self._shuffled()
        self._fault: asyncio.Task[None] | None = None

    def _shuffled(self) -> Any:
        while True:
            yield from self.rng.sample(sorted(self.faults), len(self.faults))

    async def go(self, num_requests: int) -> None:
        """So many requests at least, until each fault has begun once; returns when all calls and the last fault have ended."""
        running: set[asyncio.Task[None]] = set()
        weights = [1 / max(each.seconds, 0.01) for each in self.scene.known]
        for number in itertools.count():
            if (number >= num_requests and len(self.befell) == len(self.faults)) or len(self.wrong) >= ENOUGH:
                break
            if number % REQUESTS_PER_FAULT == 0 and (self._fault is None or self._fault.done()):
                self._begin_fault()
            if len(running) >= AT_ONCE:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            (known,) = self.rng.choices(self.scene.known, weights)
            (client,) = self.rng.choices(list(CLIENTS), list(CLIENTS.values()))
            running.add(asyncio.create_task(self._ask(client, known)))
        if running:
            await asyncio.wait(running)
        if self._fault is not None:
            await self._fault

    def _begin_fault(self) -> None:
        if self.faults:
            name = next(self._deck)
            self._fault = asyncio.create_task(self._befall(name), name=name)

    async def _befall(self, name: str) -> None:
        self.befell[name] += 1
        try:
            await self.faults[name](self.scene)
        except Exception as error:  # noqa: BLE001  it is reported with what else was wrong
            self.wrong.append(f"{name}: {error!r}")

    async def _ask(self, client: Client, known: Known) -> None:
        channel, began, path = self.rng.choice(self.scene.channels), time.monotonic(), known.question.path
        try:
            async with asyncio.timeout(TIMEOUT_S + GRACE_S):
                answer = await client(self, known, channel)
        except TimeoutError:
            self.wrong.append(f"{path}: silence for {time.monotonic() - began:.0f} s, during {self._during()}")
        except grpc.aio.AioRpcError as error:
            self._note_status(path, error, channel)
        except asyncio.CancelledError:
            self._note(channel not in self.scene.channels, "the connection was closed", path, "cancelled, but no client did it")
        except AssertionError as error:
            self.wrong.append(f"{path}: {error}")
        else:
            if answer is None:
                self.ends[LEFT] += 1
            else:
                self._note(answer == known.answer, OK, path, "another answer than alone")

    def _note_status(self, path: str, error: grpc.aio.AioRpcError, channel: grpc.aio.Channel) -> None:
        reason = details(error).reason if _DETAILS in dict(error.trailing_metadata()) else ""
        if reason:
            is_said = reason in REFUSALS.get(error.code(), ())
            self._note(is_said, f"{error.code().name} {reason}", path, f"{error.code().name} {reason} {error.details()}")
        else:
            of_connection = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            is_said = of_connection and (self.scene.is_refused or channel not in self.scene.channels)
            self._note(is_said, "the connection", path, f"{error.code().name} without a reason: {error.details()}")

    def _note(self, is_right: bool, end: str, path: str, fault: str) -> None:
        if is_right:
            self.ends[end] += 1
        else:
            self.wrong.append(f"{path}: {fault}, during {self._during()}")

    def _during(self) -> str:
        return self._fault.get_name() if self._fault is not None and not self._fault.done() else "nothing"

    def summary(self) -> str:
        """How the calls ended, and what befell."""
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        faults = ", ".join(f"{count} x {name}" for name, count in self.befell.most_common())
        return f"seed {self.seed}: {ends}, {len(self.wrong)} wrong; {faults}"
