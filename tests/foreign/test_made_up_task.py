# SPDX-License-Identifier: Apache-2.0
"""A fake task with a fake kind of engine through the whole server, with real worker processes; the server does not name the task."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import uvicorn

from attnserve.v1 import model_pb2, model_pb2_grpc
from attnserve_server.app import App
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import BundleError, Cancelled, InvalidRequest, ModelNotFound, StartupError
from attnserve_server.request import ModelKey
from attnserve_server.tasks.registry import TASKS
from attnserve_server.transport.http.watchdog import STUCK_S
from tests.foreign.asking import SLOTS, count, made_app, metric, read_metric, until
from tests.foreign.letters import KIND, MODEL_ID, SPEC, write_bundle
from tests.stopping import stopped

ROOT = Path(__file__).resolve().parents[2]
CREDIT = SLOTS + 2
LONG = 10_000
"""More steps than any test waits for."""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)  # workers find the kind by its path from there
    return tmp_path / "models"


@pytest.fixture
async def app(models: Path) -> AsyncIterator[App]:
    write_bundle(models)
    started = made_app(models)
    await started.start()
    yield started
    await started.drain_and_stop()


async def test_resolved_listed_and_answered(app: App) -> None:
    assert app.plane.resolve("", "", SPEC.number).id == MODEL_ID
    assert await count(app, "abracadabra") == {"a": 5, "b": 2, "c": 1}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        listed = await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())
    (model,) = listed.models
    assert (model.id, model.version, model.task, model.variant) == (MODEL_ID, "1", SPEC.number, "plain")
    assert model.state == model_pb2.MODEL_STATE_READY
    assert app.board.is_serving
    with pytest.raises(InvalidRequest, match="no digits"):
        await count(app, "a1")
    for spec in TASKS:
        with pytest.raises(ModelNotFound, match=f"no model for {spec.name} is served"):
            app.plane.resolve("", "", spec.number)
        with pytest.raises(InvalidRequest, match=f"does not {spec.does}"):
            await app.plane.submit(Call("id"), spec, Asked(None, MODEL_ID))


async def test_queued_counted_and_cancelled(app: App) -> None:
    tasks = [asyncio.create_task(count(app, "abc", LONG)) for _ in range(CREDIT + 3)]
    await until(lambda: read_metric(app, "queue_length") == 3)
    await until(lambda: read_metric(app, "slots") == SLOTS and read_metric(app, "decode_step_duration_seconds_count") > 0)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError | Cancelled) for result in results)
    await until(lambda: read_metric(app, "requests_cancelled_total") == CREDIT + 3)
    assert await metric(app, "queue_length") == 0
    before = await metric(app, "source_tokens_total")
    assert await count(app, "cab") == {"a": 1, "b": 1, "c": 1}
    assert await metric(app, "source_tokens_total") == before + 3


async def test_worker_is_killed_once(app: App) -> None:
    answers = [asyncio.create_task(count(app, text, 100)) for text in ("aa", "bb", "cc")]
    await until(lambda: read_metric(app, "decode_step_duration_seconds_count") > 0)
    os.kill(next(iter(app.pool.pids().values())), signal.SIGKILL)
    assert await asyncio.wait_for(asyncio.gather(*answers), 60) == [{"a": 2}, {"b": 2}, {"c": 2}]
    await until(lambda: [name.rpartition(".")[2] for name in app.pool.pids()] == ["1"])


async def test_models_come_and_go_while_others_are_served(app: App, models: Path) -> None:
    def served(folder: Path) -> ServedModel:
        return ServedModel(load_bundle(folder, check=SPEC.problems), KIND, None, 1, 0)

    under_way = asyncio.create_task(count(app, "aaa", 100))
    await app.front.add_model(served(write_bundle(models, version="2", alphabet="xyz")))
    assert await count(app, "xyx") == {"x": 2, "y": 1}, "the newest version"
    assert await count(app, "axa", version="1") == {"a": 2}
    with pytest.raises(BundleError, match="the alphabet is empty; there is nothing to count"):
        await app.front.add_model(served(write_bundle(models, version="3", alphabet="")))
    assert [model.version for model in app.plane.models()] == ["1", "2"]
    assert await under_way == {"a": 3}
    last = asyncio.create_task(count(app, "zzz", 50))
    await until(lambda: read_metric(app, "slots") > 0)
    await app.front.remove_model(ModelKey(MODEL_ID, "2"))
    assert await last == {"z": 3}, "what a worker has is answered"
    assert await count(app, "xyxa") == {"a": 1}
    with pytest.raises(ModelNotFound):
        app.plane.resolve(MODEL_ID, "2", SPEC.number)
    assert app.board.summary() == "ok"


async def test_what_waits_for_a_removed_model_is_refused(app: App) -> None:
    (worker,) = app.pool.pids().values()
    with stopped(worker):  # so that it answers none before the others are refused
        waiting = [asyncio.create_task(count(app, "abc", 60)) for _ in range(CREDIT + 2)]
        await until(lambda: read_metric(app, "queue_length") == 2)
        removal = asyncio.create_task(app.front.remove_model(ModelKey(MODEL_ID, "1")))
        await asyncio.wait(waiting[CREDIT:])
    await removal
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[:CREDIT] == [{"a": 1, "b": 1, "c": 1}] * CREDIT
    assert [str(result) for result in results[CREDIT:]] == [f"{MODEL_ID} is no longer served"] * 2
    assert await metric(app, "slots") == await metric(app, "queue_length") == 0


async def test_broken_models_are_reported_and_stop_no_other(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bundle(models)
    write_bundle(models, "of-another-architecture", architecture="sundial")
    (write_bundle(models, "with-a-file-too-many") / "notes.txt").write_text("mine")
    write_bundle(models, "without-letters", alphabet="")
    app = made_app(models)
    await app.start()
    try:
        assert [model.id for model in app.plane.models()] == [MODEL_ID]
        assert await count(app, "abc") == {"a": 1, "b": 1, "c": 1}
        assert app.board.is_serving
        assert "architecture 'sundial' counts no letters" in caplog.text
        assert "notes.txt is not listed" in caplog.text
        assert "cannot load without-letters, version 1: the alphabet is empty; there is nothing to count" in caplog.text
    finally:
        await app.drain_and_stop()


@pytest.mark.parametrize("fault", [{"alphabet": ""}, {"architecture": "sundial"}])
async def test_without_any_model_the_start_fails(models: Path, fault: dict[str, str]) -> None:
    for name in ("one", "two"):
        write_bundle(models, name, **fault)
    app = made_app(models)
    with pytest.raises(StartupError, match=r"one/1: .*two/1: "):
        await app.start()
    await app.stop_what_started()


async def test_server_without_http_drains_and_ends(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What must live as long as the process ends it, where it cannot go on."""
    write_bundle(models)
    app, ready = made_app(models), tmp_path / "ready.json"
    serving = asyncio.create_task(app.run(ready))
    await until(ready.exists)

    async def on_tick(*_: object) -> bool:
        raise OSError("made up")

    monkeypatch.setattr(uvicorn.Server, "on_tick", on_tick)
    with pytest.raises(OSError, match="made up"):
        await asyncio.wait_for(serving, 60)
    assert not ready.exists()
    assert app.pool.pids() == {}


@pytest.mark.load
async def test_server_whose_event_loop_is_stuck_fails_its_health_check(models: Path, tmp_path: Path) -> None:
    write_bundle(models)
    app, ready = made_app(models), tmp_path / "ready.json"
    serving = asyncio.create_task(app.run(ready))
    await until(ready.exists)

    def status_soon() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{app.http_port}/healthz", timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert await asyncio.to_thread(status_soon) == 200
    answer = asyncio.create_task(asyncio.to_thread(status_soon))
    await asyncio.sleep(0)
    time.sleep(2 * STUCK_S)  # noqa: ASYNC251  the fault
    assert await answer == 503
    assert await asyncio.to_thread(status_soon) == 200
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 20)
