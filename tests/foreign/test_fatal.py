# SPDX-License-Identifier: Apache-2.0
"""Workers that die of a model or a request, and workers that hang: what is at fault is set aside alone. Whole servers, real workers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attnserve_server.app import App
from attnserve_server.errors import ModelNotFound, WorkerLost
from tests.foreign.asking import count, made_app, metric
from tests.foreign.fatal import DEADLY, SLOW, SPEC
from tests.foreign.letters import write_bundle

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 5.0
"""Longer than other load keeps a worker from running; less than ``PART_S`` of ``fatal.py``."""


@asynccontextmanager
async def serving(models: Path, num_workers: int = 1) -> AsyncIterator[App]:
    app = made_app(models, SPEC, workers=num_workers, slots=8, hang_seconds=HANG_S)
    try:
        await app.start()
        yield app
    finally:
        await app.stop_what_started()


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # workers find the kind by its path from there


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_model_whose_load_kills_workers_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    for name, alphabet in (("after", "ab"), ("before", "ab"), ("deadly", f"a{DEADLY}"), ("later", "ab")):
        write_bundle(tmp_path, name, alphabet=alphabet)
    async with serving(tmp_path, num_workers) as app:
        assert app.board.is_serving
        for name in ("after", "before", "later"):
            assert await count(app, "abba", model=name) == {"a": 2, "b": 2}
        with pytest.raises(ModelNotFound):
            await count(app, "a", model="deadly")
        assert len(app.pool.pids()) == num_workers
    assert "cannot load deadly, version 1: 2 workers died while they loaded it" in caplog.text
    assert 2 <= caplog.text.count("ended with code 9") <= 1 + num_workers, "one may be loading it when two have died"


async def test_request_that_kills_workers_fails_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bundle(tmp_path)
    async with serving(tmp_path) as app:
        texts = ["aa", "bb", f"a{DEADLY}", "cc"]
        answers = await asyncio.wait_for(asyncio.gather(*(count(app, text, 5) for text in texts), return_exceptions=True), 60)
        assert answers[:2] + answers[3:] == [{"a": 2}, {"b": 2}, {"c": 2}]
        assert isinstance(answers[2], WorkerLost)
        assert await count(app, "abc") == {"a": 1, "b": 1, "c": 1}
        with pytest.raises(WorkerLost):
            await count(app, DEADLY)
    assert caplog.text.count("ended with code 9") == 3 + 2, "beside others it kills once more; by itself, two workers"


async def test_worker_that_hangs_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bundle(tmp_path)
    async with serving(tmp_path) as app:
        (pid,) = app.pool.pids().values()
        os.kill(pid, signal.SIGSTOP)
        assert await asyncio.wait_for(count(app, "abba"), 60) == {"a": 2, "b": 2}
        assert list(app.pool.pids()) == ["worker-0.1"]
        assert await metric_of_workers(app) == (1, 1)
    assert f"worker-0.0 hangs: it has work and has sent nothing for {HANG_S:g} s" in caplog.text


async def metric_of_workers(app: App) -> tuple[float, float]:
    """Live and expected workers."""
    state = [await metric(app, "workers", model=None, state=state) for state in ("live", "expected")]
    return state[0], state[1]


async def test_model_that_loads_slowly_is_no_hang(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bundle(tmp_path, alphabet=f"a{SLOW}")
    async with serving(tmp_path) as app:
        assert await count(app, "aa") == {"a": 2}
        assert list(app.pool.pids()) == ["worker-0.0"]
    assert "hangs" not in caplog.text
