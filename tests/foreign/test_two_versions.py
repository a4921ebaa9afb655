# SPDX-License-Identifier: Apache-2.0
"""Two versions of one model at once, in a whole server with a real worker: each is resolved, counted and watched separately."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnserve.v1 import model_pb2, model_pb2_grpc
from attnserve_server.app import App
from attnserve_server.errors import ModelNotFound
from attnserve_server.request import ModelKey
from tests.foreign.asking import count, made_app, metric
from tests.foreign.letters import MODEL_ID, SPEC, write_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Version 9 counts a and b, version 10 x and y."""
    monkeypatch.chdir(ROOT)  # workers find the kind by its path from there
    for version, alphabet in (("9", "ab"), ("10", "xy")):
        write_bundle(tmp_path, version=version, alphabet=alphabet)
    started = made_app(tmp_path)
    await started.start()
    yield started
    await started.drain_and_stop()


async def states(app: App) -> dict[str, int]:
    """The state of each listed version."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        listed = await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())
    assert {each.id for each in listed.models} == {MODEL_ID}
    return {each.version: each.state for each in listed.models}


async def health(app: App) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=MODEL_ID))
    return int(answer.status)


async def test_each_version_is_resolved_and_no_version_is_the_newest(app: App) -> None:
    assert await states(app) == dict.fromkeys(("9", "10"), model_pb2.MODEL_STATE_READY)
    assert await count(app, "abxx", version="9") == {"a": 1, "b": 1}
    assert await count(app, "abxx", version="10") == {"x": 2}
    assert await count(app, "abxx", model=MODEL_ID) == await count(app, "abxx") == {"x": 2}
    with pytest.raises(ModelNotFound, match=r"no version '11' of 'letters'; there are 10, 9"):
        await count(app, "a", version="11")
    assert [app.plane.resolve("", version, SPEC.number).version for version in ("", "9", "10")] == ["10", "9", "10"]


async def test_each_version_is_counted_for_itself(app: App) -> None:
    for version, text in (("9", "abc"), ("9", "ab"), ("10", "x"), ("", "xyxy")):
        await count(app, text, version=version)
    assert await metric(app, "source_tokens_total", version="9") == 5
    assert await metric(app, "source_tokens_total", version="10") == 5
    assert (
        await metric(app, "queue_duration_seconds_count", version="9")
        == await metric(app, "queue_duration_seconds_count", version="10")
        == 2
    )
    assert await metric(app, "model_ready", version="9") == await metric(app, "model_ready", version="10") == 1
    await app.front.remove_model(ModelKey(MODEL_ID, "10"))
    assert (await metric(app, "source_tokens_total", version="9"), await metric(app, "source_tokens_total", version="10")) == (5, 0)
    assert await count(app, "ab") == {"a": 1, "b": 1}
    assert await states(app) == {"9": model_pb2.MODEL_STATE_READY}


async def test_both_are_watched_under_one_id(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    summaries, set_ready = list[str](), app.board.set_ready

    def noted(*state: Any) -> None:
        set_ready(*state)
        summaries.append(app.board.summary())

    monkeypatch.setattr(app.board, "set_ready", noted)
    assert await health(app) == health_pb2.HealthCheckResponse.SERVING
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=MODEL_ID), timeout=100)
        states = [int((await watch.read()).status)]
        os.kill(next(iter(app.pool.pids().values())), signal.SIGKILL)
        states += [int((await watch.read()).status) for _ in range(2)]
    kinds = health_pb2.HealthCheckResponse
    assert states == [kinds.SERVING, kinds.NOT_SERVING, kinds.SERVING]
    assert summaries[0] == f"not ready: {MODEL_ID}"
    assert app.board.summary() == "ok"
    assert await health(app) == health_pb2.HealthCheckResponse.SERVING
    assert await count(app, "ax", version="9") == {"a": 1}
    assert await count(app, "ax", version="10") == {"x": 1}
