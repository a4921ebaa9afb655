# SPDX-License-Identifier: Apache-2.0
"""Requests that end while their answers are made on threads, or wait for one."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from attnserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from tests.fakes.gate import NUM_THREADS, Gate
from tests.fakes.pass_models import PassFront
from tests.photos import encoded
from tests.unit.server_shell.conftest import Shell, ShellFactory, until
from tests.unit.server_shell.test_segmentation import picture


@pytest.fixture
async def shell(make_shell: ShellFactory) -> Shell:
    return await make_shell(PassFront())


def begin(shell: Shell, timeout_s: float | None = None) -> Any:
    stub: Any = segmentation_pb2_grpc.SegmentationServiceStub(shell.channel)
    return stub.Segment(segmentation_pb2.SegmentRequest(image=encoded(picture(), "PNG")), timeout=timeout_s)


def counted(shell: Shell) -> list[tuple[str, str]]:
    """Name and last label of what was counted, sorted."""
    return sorted((each[0], each[-1]) for each in shell.recorder.counted)


@pytest.mark.parametrize("is_queued", [False, True])
@pytest.mark.parametrize("reason", ["client", "deadline"])
async def test_request_that_ends_while_its_answer_is_made(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, reason: str, is_queued: bool
) -> None:
    gate = Gate(monkeypatch)
    others = [begin(shell) for _ in range(NUM_THREADS if is_queued else 0)]
    await until(lambda: gate.num_begun == len(others))
    leaving = begin(shell, timeout_s=5.0 if reason == "deadline" else None)  # enough to be queued
    await until(lambda: (gate.num_queued, gate.num_begun) == (len(others) + 1, len(others) or 1))
    if reason == "client":
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    else:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await leaving
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    code = "CANCELLED" if reason == "client" else "DEADLINE_EXCEEDED"
    await until(lambda: counted(shell) == [("cancelled", reason), ("done", code)])
    assert shell.plane.num_expected == len(others), "a shutdown does not wait for it"
    gate.opened.set()
    assert [(await call).map.png for call in [*others, begin(shell)]] == [b"made"] * (len(others) + 1)
    assert gate.num_begun == (len(others) or 1) + 1, "an answer that waits for a thread is not made"
    await until(lambda: counted(shell) == sorted([("cancelled", reason), ("done", code), *[("done", "OK")] * (len(others) + 1)]))
