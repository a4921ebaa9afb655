# SPDX-License-Identifier: Apache-2.0
"""A foreign task over the single-pass engine in a whole server, with a real worker process; its requests begin at the front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from attnserve_server.app import App
from attnserve_server.errors import ConfigError, ExecutionFailed
from attnserve_server.passes import PassOutcome, PassPayload, PassTensor
from attnserve_server.request import Terms
from tests.fakes.passes import MODEL_ID, PLAIN, inputs_of, pass_manifest, payload, write_bundle
from tests.foreign import letters
from tests.foreign.asking import count, made_app, metric
from tests.foreign.pixels import SPEC, TASK

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)  # workers find the kind of the letters by its path from there
    write_bundle(tmp_path, pass_manifest(max_batch=2) | {"task": TASK})
    return tmp_path


@pytest.fixture
async def app(models: Path) -> AsyncIterator[App]:
    started = made_app(models, SPEC)
    await started.start()
    yield started
    await started.drain_and_stop()


async def ask(app: App, content: PassPayload) -> PassOutcome:
    model = app.front.resolve("", "", TASK)
    outcome: PassOutcome = (await app.front.submit(model, content, Terms()).result()).outcome
    return outcome


async def test_requests_are_answered_in_batches_and_measured(app: App, models: Path) -> None:
    answers = await asyncio.gather(*(ask(app, payload(seed)) for seed in range(20)))
    session = onnxruntime.InferenceSession(models / MODEL_ID / "1" / PLAIN)
    for seed, found in enumerate(answers):
        feeds = {each.name: inputs_of(seed)[each.name][None] for each in session.get_inputs()}
        expected = session.run(["classes"], feeds)[0][0]
        np.testing.assert_array_equal(np.frombuffer(found.outputs["classes"].data, np.uint8).reshape(expected.shape), expected)
        assert set(found.outputs) == {"classes", "confidence"}
    assert max(each.batch_size for each in answers) == 2
    runs = await metric(app, "run_duration_seconds_count", model=MODEL_ID)
    assert 10 <= runs < 20
    assert (
        await metric(app, "batch_size_sum", model=MODEL_ID)
        == await metric(app, "window_duration_seconds_count", model=MODEL_ID)
        == 20
    )
    for name in ("slots", "decode_step_duration_seconds_count", "encode_duration_seconds_count", "cold_shapes_total"):
        assert await metric(app, name, model=MODEL_ID) == 0
    maps = await ask(app, payload(1, wants_attention=True))
    assert set(maps.outputs) == {"classes", "confidence", "unary", "pairwise"}


async def test_failed_run_and_unfit_inputs_leave_the_worker_alive(app: App) -> None:
    (worker,) = app.pool.pids().values()
    outside = payload(1, wants_attention=True)
    outside.inputs["query"] = PassTensor((2,), np.array([0, 10_000], np.int64).tobytes())
    for content in (outside, PassPayload({}), PassPayload(payload(1).inputs | {"image": PassTensor((1, 1), b"")})):
        with pytest.raises(ExecutionFailed, match="the model could not be run"):
            await ask(app, content)
    assert set((await ask(app, payload(2))).outputs) == {"classes", "confidence"}
    assert list(app.pool.pids().values()) == [worker]


async def test_cold_size_is_answered_and_counted(app: App) -> None:
    found = await ask(app, payload(1, 24, 24))
    assert found.outputs["classes"].shape == (24, 24)
    assert await metric(app, "cold_shapes_total", model=MODEL_ID) == 1


async def test_setting_for_an_unknown_model_is_refused(models: Path) -> None:
    app = made_app(models, SPEC, batches={"no-such-model": {"max_batch": 1}})
    with pytest.raises(ConfigError, match=r"engine\.batches: 'no-such-model' not in"):
        await app.start()
    await app.stop_what_started()


@pytest.mark.parametrize(("max_batch", "warns"), [(8, False), (9, True)])
async def test_setting_far_above_the_largest_batch_of_the_bundle_is_warned_of(
    models: Path, caplog: pytest.LogCaptureFixture, max_batch: int, warns: bool
) -> None:
    app = made_app(models, SPEC, batches={MODEL_ID: {"max_batch": max_batch}})
    await app.start()
    await app.drain_and_stop()
    text = f"{MODEL_ID}, version 1: a largest batch of {max_batch} is set, and the bundle was measured with 2 at most"
    assert (text in caplog.text) == warns


async def test_setting_for_a_model_without_batches_is_refused(models: Path) -> None:
    letters.write_bundle(models)
    batches = {letters.MODEL_ID: {"max_batch": 1}, MODEL_ID: {"max_batch": 1}}
    app = made_app(models, SPEC, letters.SPEC, batches=batches)
    with pytest.raises(ConfigError, match=rf"engine\.batches: only single-pass models .* not '{letters.MODEL_ID}'$"):
        await app.start()
    await app.stop_what_started()


async def test_one_worker_serves_models_of_several_kinds(models: Path) -> None:
    letters.write_bundle(models)
    app = made_app(models, SPEC, letters.SPEC, batches={MODEL_ID: {"window_seconds": 0.01}})
    await app.start()
    try:
        results: list[Any] = await asyncio.gather(
            *(each for seed in range(10) for each in (count(app, "abba", 3), ask(app, payload(seed))))
        )
        assert results[::2] == [{"a": 2, "b": 2}] * 10
        assert all(isinstance(each, PassOutcome) for each in results[1::2])
        assert await metric(app, "slots", model="letters") > 0
        assert await metric(app, "batch_rows_count", model=MODEL_ID) == 0
    finally:
        await app.drain_and_stop()
