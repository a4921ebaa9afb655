# SPDX-License-Identifier: Apache-2.0
"""A front with fake workers: they record what it sends, and send the messages of the test."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry

from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.front import Front
from attnserve_server.engine.front.job import Ticket
from attnserve_server.engine.front.served_models import ModelRegistry, ServedModel
from attnserve_server.engine.front.sharing import SharedAnswers
from attnserve_server.engine.link.messages import Broken, Cancel, FromWorker, Hello, Progress, Ready, ToWorker
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import (
    DecodeOptions,
    Done,
    Failed,
    FinishReason,
    Hypothesis,
    ModelKey,
    SequenceEvent,
    SequenceOutcome,
    SequencePayload,
    Terms,
    TokensProduced,
    Work,
)
from attnserve_server.stats import EngineStats
from tests.fakes.models import make_model

WORKER = "worker-0.0"


class Pool:
    """Records what is sent; its workers have every model as soon as they are started."""

    def __init__(self, models: list[ServedModel], workers: tuple[str, ...]) -> None:
        self.sent: list[tuple[str, ToWorker]] = []
        self.models, self.workers, self.num_workers = models, workers, len(workers)
        self.broken: dict[tuple[str, ModelKey], list[str]] = {}
        """The error of a model, by worker and model."""
        self.killed: list[str] = []
        self.is_draining = False

    device = "cpu"

    def learn(self, kinds: Any) -> None:
        pass

    async def start(self, on_message: Any, on_lost: Any) -> None:
        self.say, self.on_lost = on_message, on_lost
        for worker in self.workers:
            self.say(worker, Hello("cpu", "1.31.1"))
            for model in self.models:
                problems = self.broken.get((worker, model.key))
                self.say(worker, ready(model) if problems is None else Broken(model.key, problems, model.generation))
        self.sent.clear()

    def lose(self, worker: str) -> None:
        self.workers = tuple(name for name in self.workers if name != worker)
        self.on_lost(worker)

    def pids(self) -> dict[str, int]:
        return dict.fromkeys(self.workers, 1)

    def kill(self, worker: str) -> None:
        self.killed.append(worker)

    def send(self, worker: str, message: ToWorker) -> None:
        self.sent.append((worker, message))

    async def stop(self, grace_s: float) -> None:
        pass


class Bench:
    """A front with fake workers, and the actions of a test."""

    def __init__(
        self,
        num_models: int = 1,
        slots: int = 4,
        limit: int = 100,
        cache_bytes: int = 0,
        ageing_s: float = 1.0,
        config: EngineConfig | None = None,
        models: list[ServedModel] | None = None,
    ) -> None:
        self.models = models or [make_model(f"model-{index}", is_ready=False, max_source_tokens=50) for index in range(num_models)]
        self.registry = CollectorRegistry()
        self.pool = Pool(self.models, (WORKER,))
        pool: Any = self.pool
        metrics = Metrics(self.registry)
        config = config or EngineConfig(slots=slots, queue_limit=limit, ageing_seconds=ageing_s)
        self.front = Front(ModelRegistry(self.models, {}), pool, config, metrics, lambda *_: None)
        self.shared = SharedAnswers(self.front, cache_bytes, limit, metrics) if cache_bytes else None

    async def start(self, *workers: str) -> Bench:
        self.pool.workers, self.pool.num_workers = workers or (WORKER,), len(workers) or 1
        await self.front.start()
        return self

    def ask(self, tokens: list[int] | None = None, model: int = 0, options: DecodeOptions | None = None, **terms: Any) -> Ticket:
        payload = SequencePayload(tokens or [5, 6, 7, 3], options or DecodeOptions())
        if self.shared is None:
            return self.front.submit(self.models[model], payload, Terms(**terms))
        return self.shared.submit(self.models[model], payload, Terms(**terms), self.shared.key(self.models[model], payload))

    def submitted(self, model: int = 0) -> list[int]:
        """Numbers of the requests that were sent to workers, in order."""
        return [work.request_id for work in self.submits() if work.model == self.models[model].key]

    def submits(self) -> list[Work[Any]]:
        return [message for _, message in self.pool.sent if isinstance(message, Work)]

    def cancels(self) -> list[tuple[int, str]]:
        return [(message.request_id, message.reason) for _, message in self.pool.sent if isinstance(message, Cancel)]

    def say(self, *events: SequenceEvent, model: int = 0, worker: str = WORKER, **cancelled: int) -> None:
        stats = EngineStats(f"model-{model}", "1", [], 4, 0, 0, 0.0, 1.0, cancelled)
        message: FromWorker = Progress(list(events), stats)
        self.pool.say(worker, message)

    def finish(self, number: int, tokens: list[int] | None = None, service_s: float = 0.1, model: int = 0, **rest: Any) -> None:
        self.say(finished(number, tokens, service_s, **rest), model=model)

    def lose(self, worker: str = WORKER) -> None:
        self.pool.lose(worker)

    def ready(self, worker: str, model: int = 0) -> None:
        if worker not in self.pool.workers:
            self.pool.workers += (worker,)
        self.pool.say(worker, ready(self.models[model]))

    def value(self, name: str, **labels: str) -> float:
        """The sum of a sample's series with these labels."""
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"attnserve_{name}" and labels.items() <= sample.labels.items()
        )

    def assert_idle(self) -> None:
        assert self.front.accounting.is_idle
        assert self.shared is None or not self.shared.num_under_way
        assert self.value("queue_length") == 0


def ready(model: ServedModel) -> Ready:
    return Ready(model.key, 0.1, model.generation)


def finished(number: int, tokens: list[int] | None = None, service_s: float = 0.1, **rest: Any) -> Done:
    now = time.monotonic()
    hypotheses = [Hypothesis(tokens or [9, 8, 3], -0.5, FinishReason.STOP, **rest)]
    return Done(
        number, SequenceOutcome(hypotheses), now - service_s, service_s / 4, now - service_s / 2, now, len(tokens or [9, 8, 3])
    )


def produced(number: int, *tokens: int, **copied: int) -> TokensProduced:
    return TokensProduced(number, list(tokens), {int(index[1:]): origin for index, origin in copied.items()})


def failed(number: int, reason: str = "EXECUTION_FAILED") -> Failed:
    return Failed(number, reason, "made up")
