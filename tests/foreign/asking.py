# SPDX-License-Identifier: Apache-2.0
"""A whole server of the fake task in this process, with real workers: starts it, sends requests, reads its metrics."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from attnserve_server.app import App
from attnserve_server.config import load_config
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked
from attnserve_server.tasks.registry import TASKS, TaskSpec
from tests.foreign.letters import MODEL_ID, SPEC, Letters

SLOTS = 2


def made_app(models: Path, *specs: TaskSpec, **engine: Any) -> App:
    """A server of the given tasks beside its own; without any, of :data:`SPEC`."""
    flags = {
        "models": str(models), "log_level": "warning", "grpc": {"port": 0}, "http": {"port": 0},
        "engine": {"device": "cpu", "workers": 1, "slots": SLOTS, **engine}, "drain_seconds": 0.0,
    }  # fmt: skip
    return App(load_config(flags, {}), (*TASKS, *(specs or (SPEC,))))


async def count(app: App, text: str, num_steps: int = 1, **asked: Any) -> dict[str, int]:
    call = Call("id")
    try:
        pending = await app.plane.submit(call, SPEC, Asked(Letters(text, num_steps), **asked))
        answer: dict[str, int] = await pending.answer(lambda counts, _: counts)
        return answer
    except asyncio.CancelledError:
        call.cancel("client")
        raise


async def metric(app: App, name: str, **labels: str | None) -> float:
    """The sum of a sample's series of the model (``model=None``: of any, or none), with these labels."""
    return await asyncio.to_thread(read_metric, app, name, **labels)  # this thread's event loop answers


def read_metric(app: App, name: str, **labels: str | None) -> float:
    """:func:`metric`, from another thread than the server's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{app.http_port}/metrics", timeout=20) as response:
        text = response.read().decode()
    wanted = {name: value for name, value in {"model": MODEL_ID, **labels}.items() if value is not None}.items()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == f"attnserve_{name}" and wanted <= sample.labels.items())


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)
