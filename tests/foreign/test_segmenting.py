# SPDX-License-Identifier: Apache-2.0
"""A small segmentation model in a whole server, with a real worker process and clients over gRPC: how its requests end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import pytest
from PIL import Image

from attnserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from attnserve_server.app import App
from attnserve_server.engine.front.sharing import SharedAnswers
from tests.fakes.gate import NUM_THREADS, Gate
from tests.fakes.passes import MODEL_ID, write_bundle
from tests.foreign.asking import made_app, metric, until
from tests.photos import encoded
from tests.stopping import stopped

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 1.0
"""Time that a stop leaves to calls that are under way."""

Starter = Callable[..., Awaitable[App]]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Starter]:
    monkeypatch.chdir(ROOT)
    write_bundle(tmp_path)
    started: list[App] = []

    async def make(*, drain_seconds: float = 20.0, cache_bytes: int = 0, **engine: Any) -> App:
        app = made_app(tmp_path, **engine)
        cache = msgspec.structs.replace(app.config.cache, max_bytes=cache_bytes)
        app.config = msgspec.structs.replace(app.config, drain_seconds=drain_seconds, cache=cache)
        started.append(app)
        await app.start()
        return app

    yield make
    for app in started:
        await app.stop_what_started()


def segment(channel: grpc.aio.Channel, width: int = 32, **rest: Any) -> Any:
    """A call with an image of this width and 16 rows."""
    image = Image.effect_mandelbrot((width, 16), (-2, -1, 1, 1), 100).convert("RGB")
    request = segmentation_pb2.SegmentRequest(image=encoded(image, "PNG"))
    stub: Any = segmentation_pb2_grpc.SegmentationServiceStub(channel)
    return stub.Segment(request, **rest)


def channel_to(app: App) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}")


async def test_answers_that_are_being_made_at_a_shutdown_are_sent(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the stop leaves to calls, and more than there are threads; the engine has answered all of them."""
    app, gate = await start(), Gate(monkeypatch)
    async with channel_to(app) as channel:
        calls = [segment(channel, 32 + index) for index in range(5)]
        await until(lambda: gate.num_begun == NUM_THREADS and app.plane.num_expected == 5 and app.front.accounting.is_idle)
        stopping = asyncio.ensure_future(app.drain_and_stop())
        await asyncio.sleep(GRACE_S + 0.5)
        assert not stopping.done()
        gate.opened.set()
        assert [(await call).map.png for call in calls] == [b"made"] * 5
        await asyncio.wait_for(stopping, 20)


async def test_shutdown_waits_no_longer_than_it_may_for_answers(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    app, gate = await start(drain_seconds=0.1), Gate(monkeypatch)
    async with channel_to(app) as channel:
        call = segment(channel)
        await until(lambda: gate.num_begun == 1)
        await asyncio.wait_for(app.drain_and_stop(), 20)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        gate.opened.set()


async def test_request_that_is_cancelled_in_its_window_is_not_run(start: Starter) -> None:
    app = await start(batches={MODEL_ID: {"max_batch": 4, "window_seconds": 1.0}})

    async def value(name: str, **labels: str) -> float:
        return await metric(app, name, model=MODEL_ID, **labels)

    (worker,) = app.pool.pids().values()
    async with channel_to(app) as channel:
        with stopped(worker):  # so that the window does not end before the request does
            leaving = segment(channel)
            await until(lambda: app.plane.num_expected == 1 and not app.front.accounting.is_idle)
            leaving.cancel()
            await until(lambda: app.plane.num_expected == 0)
        await until(lambda: app.front.accounting.is_idle)
        answers = await asyncio.gather(segment(channel), segment(channel))
        assert all(each.map.png for each in answers)
        assert await value("requests_cancelled_total", reason="client") == 1
        assert await value("batch_size_sum") == 2, "it was not run"


async def test_key_of_an_image_is_made_where_it_was_decoded(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, original = list[threading.Thread](), SharedAnswers.key

    def key(self: SharedAnswers, model: Any, payload: Any) -> bytes:
        threads.append(threading.current_thread())
        return original(self, model, payload)

    monkeypatch.setattr(SharedAnswers, "key", key)
    app = await start(cache_bytes=1_000_000)
    async with channel_to(app) as channel:
        assert (await segment(channel)).map.png
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_answer_from_the_cache_is_the_same_and_says_that_nothing_was_run(start: Starter) -> None:
    app = await start(cache_bytes=1_000_000)
    async with channel_to(app) as channel:
        first, again, other = [await segment(channel, width) for width in (32, 32, 30)]
        assert (first.map, first.classes) == (again.map, again.classes)
        assert [each.timings.batch_size for each in (first, again, other)] == [1, 0, 1]
        assert [each.timings.run_seconds > 0 for each in (first, again, other)] == [True, False, True]
        assert 0 < again.timings.preparation_seconds <= again.timings.total_seconds
        results = {name: await metric(app, "cache_requests_total", model=MODEL_ID, result=name) for name in ("hit", "miss")}
        assert (results, await metric(app, "batch_size_sum", model=MODEL_ID)) == ({"hit": 1, "miss": 2}, 2)
