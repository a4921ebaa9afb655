# SPDX-License-Identifier: Apache-2.0
"""Clips whose requests end, or whose server stops, while they are decoded or wait for a decoder."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from attnserve.v1 import classification_pb2, classification_pb2_grpc
from attnserve_server.dataplane import offload
from attnserve_server.tasks.clips.processes import Decoding
from attnserve_server.tasks.registry import VIDEO_CLASSIFICATION
from tests.fakes.pass_models import PassFront, watcher
from tests.fakes.slow_decoder import SlowDecoder
from tests.unit.server_shell.conftest import Shell, ShellFactory, until
from tests.unit.server_shell.test_rpc import failure, reason

START_S = 30.0
"""Time for processes to start on a busy machine."""


@pytest.fixture
async def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowDecoder]:
    made = SlowDecoder(tmp_path)
    decoding = Decoding(made.command)
    monkeypatch.setattr(VIDEO_CLASSIFICATION.task, "decoding", decoding)
    monkeypatch.setattr("attnserve_server.tasks.video_classification.check_decoder", lambda: None)
    yield made
    made.let_end()
    decoding.close()


@pytest.fixture
async def shell(decoder: SlowDecoder, make_shell: ShellFactory) -> Shell:
    return await make_shell(PassFront(watcher()))


def begin(shell: Shell, name: str, timeout_s: float | None = None) -> Any:
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(shell.channel)
    return stub.ClassifyVideo(classification_pb2.ClassifyVideoRequest(video=SlowDecoder.clip(name)), timeout=timeout_s)


async def start_two(shell: Shell, decoder: SlowDecoder) -> None:
    """Lets both processes start, and wait for a clip."""
    calls = [begin(shell, name) for name in ("slow-first", "slow-second")]
    await until(lambda: len(decoder.begun()) == 2, START_S)
    decoder.let_end()
    await asyncio.gather(*calls)
    await until(lambda: len(VIDEO_CLASSIFICATION.task.decoding.idle_pids()) == 2, START_S)
    decoder.hold()


async def begin_when_free(shell: Shell, decoder: SlowDecoder, name: str) -> Any:
    """Begins a call until one is not refused, and waits until its clip is decoded."""
    async with asyncio.timeout(START_S):
        while True:
            call = begin(shell, name)
            while not (call.done() or name in decoder.begun()):
                await asyncio.sleep(0.002)
            if not call.done():
                return call
            assert reason(await failure(call)) == "OVERLOADED"


def counted(shell: Shell) -> Counter[tuple[str, str]]:
    """Name and last label of what was counted."""
    return Counter((each[0], each[-1]) for each in shell.recorder.counted)


@pytest.mark.parametrize(("ending", "code"), [("client", "CANCELLED"), ("deadline", "DEADLINE_EXCEEDED")])
async def test_decoding_ends_with_its_request_and_others_go_on(
    shell: Shell, decoder: SlowDecoder, ending: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    await start_two(shell, decoder)  # no start takes of the time until the deadline
    neighbour, leaving = begin(shell, "slow-neighbour"), begin(shell, "slow", 8.0 if ending == "deadline" else None)
    await until(lambda: len(decoder.begun()) == 4, START_S)
    waiting, gone = begin(shell, "waiting"), begin(shell, "gone")
    await until(lambda: shell.plane.num_preparing == 4)
    gone.cancel()
    await until(lambda: shell.plane.num_preparing == 3)
    if ending == "client":
        leaving.cancel()
    await until(lambda: not decoder.is_running("slow"), START_S)
    assert (await waiting).clip_frames == 1
    assert decoder.is_running("slow-neighbour")
    decoder.let_end()
    assert (await neighbour).clip_frames == 1
    assert "gone" not in decoder.begun(), "a clip that waited is not decoded"
    expected = Counter({("done", "OK"): 4}) + Counter([("cancelled", "client"), ("done", "CANCELLED")])
    await until(lambda: counted(shell) == expected + Counter([("cancelled", ending), ("done", code)]))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_place_of_a_clip_whose_request_has_ended_is_free(
    shell: Shell, decoder: SlowDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "MAX_PENDING", 1)
    for number in range(3):
        leaving = await begin_when_free(shell, decoder, f"slow-{number}")
        assert reason(await failure(begin(shell, "further"))) == "OVERLOADED"
        leaving.cancel()
        await until(lambda number=number: not decoder.is_running(f"slow-{number}"), START_S)


async def test_clips_that_came_before_a_stop_are_answered_and_later_ones_refused(shell: Shell, decoder: SlowDecoder) -> None:
    calls = [begin(shell, name) for name in ("slow-1", "slow-2", "slow-3")]
    await until(lambda: len(decoder.begun()) == 2 and shell.plane.num_preparing == 3, START_S)
    shell.front.draining.end()
    error = await failure(begin(shell, "late"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert ("rejected", "watcher", "1", "shutting_down") in shell.recorder.counted
    decoder.let_end()
    assert [answer.clip_frames for answer in await asyncio.gather(*calls)] == [1, 1, 1]
    assert (shell.plane.num_preparing, len(shell.front.payloads)) == (0, 3)
    assert "late" not in decoder.begun()


async def test_clips_that_are_not_decoded_in_time_when_the_server_stops_get_unavailable(
    shell: Shell, decoder: SlowDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    calls = [asyncio.ensure_future(failure(begin(shell, name))) for name in ("slow-1", "slow-2", "slow-3")]
    await until(lambda: len(decoder.begun()) == 2 and shell.plane.num_preparing == 3, START_S)
    shell.front.draining.end()
    shell.plane.close()
    for error in await asyncio.gather(*calls):
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await until(lambda: not any(map(decoder.is_running, decoder.begun())), START_S)
    assert len(decoder.begun()) == 2, "a clip that waited is not decoded"
    assert counted(shell) == Counter({("rejected", "shutting_down"): 3, ("done", "UNAVAILABLE"): 3})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
