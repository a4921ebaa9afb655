# SPDX-License-Identifier: Apache-2.0
"""A random walk of faults over all tasks: every answer is right or has a status that says why, and nothing is left afterwards.

The seed is printed; ``ATTNSERVE_TEST_SEED=N`` repeats a walk, as far as the machine's speed allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve.v1.translation_pb2 import TranslateStreamRequest, TranslateStreamResponse
from attnserve_server.tasks.registry import TASKS
from tests.chaos import walk as walk_module
from tests.chaos.walk import NUM_CHANNELS, Walk
from tests.chaos.walk_faults import FAULTS, Clock, Fault, LogPipe, Scene
from tests.chaos.walk_questions import Question, answer_of, asked_alone, content, questions_of
from tests.e2e.every_task import every_task, serve_every_task
from tests.e2e.serving import LONG_TEXT, OPTIONS, Samples, Server, default_model_alone, eventually, is_alive, is_worker, serve
from tests.foreign.letters import SPEC as LETTERS
from tests.seeds import VARIABLE

NUM_WORKERS, SETTLED_S, MEMORY = 2, 90.0, 1.05
GAUGES = (("attnserve_slots", {"state": "used"}), ("attnserve_queue_length", {}))
"""What is zero when nothing is asked."""
NUM_LAST = 20
"""Streams that run when the signal comes."""


def test_every_method_of_every_task_is_asked() -> None:
    asked = {question.path for question in questions_of(TASKS)}
    assert len(asked) >= 6
    assert {path.split("/")[1] for path in asked} == {spec.service for spec in TASKS}


def test_task_without_questions_is_seen() -> None:
    with pytest.raises((KeyError, AssertionError)):
        questions_of([*TASKS, LETTERS])
    with pytest.raises(KeyError, match="caption"):
        questions_of(TASKS, {"translation": [{"text": "a"}]})


# --- What a walk sees ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one model for each task, to which no fault is done."""
    with serve_every_task(tmp_path_factory.mktemp("every_task"), "--workers", "1") as running:
        yield running


@pytest.fixture
async def scene(server: Server, tmp_path: Path) -> AsyncIterator[Scene]:
    """What a walk needs of the server."""
    pipe = LogPipe(tmp_path / "log")
    scene = Scene(server, pipe, Clock(tmp_path / "clock"), random.Random(1), [])
    scene.channels = [scene.channel()]
    scene.known = await asked_alone(scene.channels[0])
    yield scene
    await scene.channels[0].close()
    pipe.close()


async def wrong_of(scene: Scene, faults: Mapping[str, Fault], num_requests: int = 10) -> list[str]:
    walk = Walk(scene, faults, 1)
    await walk.go(num_requests)
    return walk.wrong


async def test_walk_without_faults_finds_nothing_wrong(scene: Scene) -> None:
    assert await wrong_of(scene, {}, 100) == []


async def test_another_answer_is_seen(scene: Scene) -> None:
    scene.known = [replace(each, answer=each.answer + b"x") for each in scene.known]
    assert any("another answer than alone" in each for each in await wrong_of(scene, {}))


async def test_status_that_does_not_say_why_is_seen(scene: Scene) -> None:
    empty = replace(scene.known[0].question, request=type(scene.known[0].question.request)())
    scene.known = [replace(scene.known[0], question=empty)]
    assert any("INVALID_ARGUMENT" in each for each in await wrong_of(scene, {}))


async def test_silence_is_seen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(walk_module, "CLIENTS", {silent: 1})
    monkeypatch.setattr(walk_module, "TIMEOUT_S", 0.0)
    monkeypatch.setattr(walk_module, "GRACE_S", 0.05)
    found = await wrong_of(scene, {})
    assert len(found) == 10
    assert all("silence for 0 s, during nothing" in each for each in found)


async def test_fault_that_is_not_overcome_is_seen(scene: Scene) -> None:
    async def planted(_: Scene) -> None:
        raise TimeoutError("no worker")

    assert await wrong_of(scene, {"planted": planted}) == ["planted: TimeoutError('no worker')"]


def settled(server: Server) -> Samples:
    """The metrics when all workers are there, every model is ready and nothing is asked."""

    def is_settled() -> bool:
        samples = server.scrape()
        return (
            sum(map(is_worker, server.children())) == NUM_WORKERS
            and server.http("/healthz")[0] == 200
            and samples.total("attnserve_model_ready") == len(TASKS)
            and not any(samples.total(name, **labels) for name, labels in GAUGES)
        )

    eventually(is_settled, "all workers there, and nothing in use", SETTLED_S, 0.1)
    return server.scrape()


def resident(server: Server) -> int:
    """Bytes of the front."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@contextlib.asynccontextmanager
async def scene_of(folder: Path, seed: int) -> AsyncIterator[Scene]:
    """A server whose output is a pipe, its answers when it is asked alone, and some connections."""
    pipe, clock = LogPipe(folder / "server.log"), Clock(folder / "clock")
    models = str(every_task(folder))
    flags = ("--models", models, "--workers", str(NUM_WORKERS))
    try:
        environment = {**clock.environment, "ATTNSERVE_ENGINE_HANG_SECONDS": "2"}
        with serve(folder, *flags, output=pipe.writing, environment=environment) as server:
            scene = Scene(server, pipe, clock, random.Random(seed), [])
            scene.channels = [scene.channel() for _ in range(NUM_CHANNELS)]
            scene.known = await asked_alone(scene.channels[0])
            yield scene
            for channel in scene.channels:
                await channel.close()
    finally:
        pipe.close()


async def _rest(call: Any) -> list[Any]:
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def end_group(scene: Scene) -> None:
    """SIGTERM to the front and its workers at once while streams run: all are answered, and the exit is clean."""
    server, options = scene.server, DecodeOptions(min_tokens=100, max_tokens=100)
    request = TranslateStreamRequest(text=LONG_TEXT, options=options)
    question = Question("/attnserve.v1.TranslationService/TranslateStream", request, TranslateStreamResponse, is_stream=True)
    expected = await answer_of(question, scene.channels[0])
    calls = [question.ask(scene.channels[0], 60) for _ in range(NUM_LAST)]
    firsts = [await call.read() for call in calls]
    workers = server.children()
    for pid in (server.process.pid, *workers):
        os.kill(pid, signal.SIGTERM)
    rest = await asyncio.gather(*map(_rest, calls), return_exceptions=True)
    assert all(first.WhichOneof("event") == "delta" for first in firsts)
    assert [each for each in rest if isinstance(each, BaseException)] == []
    assert {content(messages[-1].result) for messages in rest} == {expected}
    assert await asyncio.to_thread(server.process.wait, 30) == 0
    assert not any(is_alive(pid) for pid in workers)


async def walk_through(folder: Path, num_requests: int) -> None:
    seed = int(os.environ.get(VARIABLE) or random.SystemRandom().randrange(10**6))
    print(f"\n{VARIABLE}={seed}")
    async with scene_of(folder, seed) as scene:
        walk = Walk(scene, FAULTS, seed)
        await walk.go(1000)
        assert walk.wrong == [], walk.summary()
        await asyncio.to_thread(settled, scene.server)
        before = resident(scene.server)
        await walk.go(num_requests - 1000)
        assert walk.wrong == [], walk.summary()
        await asyncio.to_thread(settled, scene.server)
        after = resident(scene.server)
        print(f"{walk.summary()}; front {before / 1e6:.0f} MB after 1,000 requests, {after / 1e6:.0f} MB at the end")
        assert scene.server.process.poll() is None
        assert await answer_of(scene.known[0].question, scene.channels[0]) == scene.known[0].answer
        assert after <= MEMORY * before
        await end_group(scene)
    assert "Traceback" not in scene.server.log.read_text(), scene.server.tail()


@pytest.mark.load
async def test_random_walk(tmp_path: Path) -> None:
    await walk_through(tmp_path, 2000)


@pytest.mark.load
@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_random_walk_at_length(tmp_path: Path) -> None:
    await walk_through(tmp_path, 100_000)


@pytest.mark.load
async def test_log_on_a_full_disk(tmp_path: Path) -> None:
    models, full = str(every_task(tmp_path)), os.open("/dev/full", os.O_WRONLY)
    with serve(tmp_path, "--models", models, output=full) as server:
        os.close(full)
        async with grpc.aio.insecure_channel(server.target, options=OPTIONS) as channel:
            for known in await asked_alone(channel):
                assert await answer_of(known.question, channel) == known.answer
        assert server.http("/healthz")[0] == 200
        server.process.terminate()
        assert server.process.wait(20) == 0


def test_ready_file_on_a_full_disk(tmp_path: Path) -> None:
    """A limit of 0 bytes for every file that is written: the error is that of a full disk but for its number."""
    command = [sys.executable, "-m", "attnserve_server", "--grpc-port", "0", "--http-port", "0", "--workers", "1"]
    process = subprocess.run(
        [
            "sh",
            "-c",
            'ulimit -f 0; exec "$@"',
            "sh",
            *command,
            "--models",
            str(default_model_alone(tmp_path)),
            "--ready-file",
            str(tmp_path / "ready.json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 1
    assert "error: " in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "ready.json").exists()
