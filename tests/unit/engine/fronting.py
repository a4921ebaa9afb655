# SPDX-License-Identifier: Apache-2.0
"""A front whose workers are made up: what it sends is noted, and they say what the test wants them to say."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from attnserve_server.engine.front.front import Front, FrontConfig
from attnserve_server.engine.front.ticket import Ticket
from attnserve_server.engine.front.workers import WorkersConfig
from attnserve_server.engine.link.messages import Cancel, FromWorker, Progress, Ready, Submit, ToWorker
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import (
    DecodeOptions,
    FinishReason,
    Hypothesis,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    Terms,
    TokensProduced,
)
from attnserve_server.scheduling.queue import QueueConfig
from attnserve_server.stats import EngineStats

WORKER = "worker-0.0"


class Model:
    """What a front needs of a model."""

    def __init__(self, index: int = 0, max_source_tokens: int = 50) -> None:
        self.id, self.version, self.variant, self.index = f"model-{index}", "1", "fp32", index
        self.max_source_tokens, self.ready_workers, self.lost_at = max_source_tokens, set[str](), -1e9
        self.bundle = SimpleNamespace(folder="nowhere")

    @property
    def is_ready(self) -> bool:
        return bool(self.ready_workers)


class Pool:
    """Notes what is sent."""

    num_workers = 1

    def __init__(self) -> None:
        self.sent: list[tuple[str, ToWorker]] = []

    async def start(self, on_message: Any, on_lost: Any) -> None:
        self.say, self.lose = on_message, on_lost

    def send(self, worker: str, message: ToWorker) -> None:
        self.sent.append((worker, message))

    async def stop(self) -> None:
        pass


class Bench:
    """A front with made-up workers, and the moves of a test."""

    def __init__(self, num_models: int = 1, slots: int = 4, limit: int = 100, cache_bytes: int = 0, ageing_s: float = 1.0) -> None:
        self.models = [Model(index) for index in range(num_models)]
        self.registry = CollectorRegistry()
        self.pool = Pool()
        registry: Any = SimpleNamespace(all=lambda: list(self.models))
        pool: Any = self.pool
        config = FrontConfig(WorkersConfig(slots, 0.0, 0.0, "cpu"), QueueConfig(limit, ageing_s), cache_bytes)
        self.front = Front(registry, pool, config, Metrics(self.registry), lambda *_: None)

    async def start(self, *workers: str) -> Bench:
        for worker in workers or (WORKER,):
            for model in self.models:
                model.ready_workers.add(worker)
        await self.pool.start(None, None)
        front: Any = self.front
        front._workers._listener = SimpleNamespace(progress=front._on_progress, ready=front._dispatch, lost=front._on_lost)
        self.pool.say, self.pool.lose = front._workers._on_message, front._workers._on_lost
        return self

    def ask(self, tokens: list[int] | None = None, model: int = 0, options: DecodeOptions | None = None, **terms: Any) -> Ticket:
        served: Any = self.models[model]
        return self.front.submit(served, tokens or [5, 6, 7, 3], options or DecodeOptions(), Terms(**terms))

    def submitted(self, model: int = 0) -> list[int]:
        """Numbers of the requests that were sent to workers, in order."""
        found = [message for _, message in self.pool.sent if isinstance(message, Submit)]
        return [message.request.request_id for message in found if message.model == model]

    def submits(self) -> list[Submit]:
        return [message for _, message in self.pool.sent if isinstance(message, Submit)]

    def cancels(self) -> list[tuple[int, str]]:
        return [(message.request_id, message.reason) for _, message in self.pool.sent if isinstance(message, Cancel)]

    def say(self, *events: RequestEvent, model: int = 0, worker: str = WORKER, **cancelled: int) -> None:
        stats = EngineStats(f"model-{model}", "1", [], 4, 0, 0, 0.0, 1.0, cancelled)
        message: FromWorker = Progress(model, list(events), stats)
        self.pool.say(worker, message)

    def finish(self, number: int, tokens: list[int] | None = None, service_s: float = 0.1, model: int = 0, **rest: Any) -> None:
        self.say(finished(number, tokens, service_s, **rest), model=model)

    def lose(self, worker: str = WORKER) -> None:
        self.pool.lose(worker)

    def ready(self, worker: str, model: int = 0) -> None:
        self.pool.say(worker, Ready(model, 0.1))

    def value(self, name: str, **labels: str) -> float:
        """The sum of a sample's series with these labels."""
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"attnserve_{name}" and labels.items() <= sample.labels.items()
        )

    def assert_idle(self) -> None:
        front: Any = self.front
        assert not front._jobs
        assert not front._sharing._under_way
        assert all(not len(admission) for admission in front._admissions)
        assert all(rows == 0 for rows in front._workers._rows.values())
        assert self.value("queue_length") == 0


def finished(number: int, tokens: list[int] | None = None, service_s: float = 0.1, **rest: Any) -> RequestFinished:
    now = time.monotonic()
    hypotheses = [Hypothesis(tokens or [9, 8, 3], -0.5, FinishReason.STOP, **rest)]
    return RequestFinished(number, hypotheses, now - service_s, service_s / 4, now - service_s / 2, now, len(tokens or [9, 8, 3]))


def produced(number: int, *tokens: int, **copied: int) -> TokensProduced:
    return TokensProduced(number, list(tokens), {int(index[1:]): origin for index, origin in copied.items()})


def failed(number: int, reason: str = "EXECUTION_FAILED") -> RequestFailed:
    return RequestFailed(number, reason, "made up")
