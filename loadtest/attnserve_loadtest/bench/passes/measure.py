# SPDX-License-Identifier: Apache-2.0
"""A model behind our server and behind the peers at their best settings, in interleaved rounds."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from attnserve.v1 import manifest_pb2
from attnserve_client.errors import ToolError
from attnserve_loadtest.bench.passes import sides
from attnserve_loadtest.bench.passes.answers import check_same
from attnserve_loadtest.bench.passes.client import load
from attnserve_loadtest.bench.passes.sides import BENTOML, LITSERVE, OURS, Side
from attnserve_loadtest.bench.processor import processor_seconds
from attnserve_loadtest.bench.rounds import Ratio, ratio
from attnserve_server.bundle.loader import Bundle

PEERS = (LITSERVE, BENTOML)
WORKERS = 2
FULL = 64
"""Requests in flight of the bars, and of the choice of the peers' settings."""
PHOTOS = Path(__file__).resolve().parents[4] / "tests" / "golden" / "photos"
Batching = tuple[int, float]
"""Largest batch, and wait in milliseconds: LitServe's ``batch_timeout``; BentoML chooses its own wait."""


@dataclass(frozen=True, slots=True)
class Work:
    """The load of a model.

    Attributes:
        size: width and height of the JPEG files that are sent.
        requests: of a round, by requests in flight.
        settings: of each peer, of which the best is taken.
    """

    size: tuple[int, int]
    requests: Mapping[int, int]
    settings: Mapping[str, Sequence[Batching]]


WORKS: Mapping[int, Work] = {
    manifest_pb2.TASK_CLASSIFICATION: Work(
        (32, 32),
        {1: 150, 8: 600, FULL: 1200},
        {LITSERVE: ((1, 0), (8, 2), (32, 2), (32, 10)), BENTOML: ((1, 0), (8, 0), (32, 0))},
    ),
    manifest_pb2.TASK_SEGMENTATION: Work(
        (480, 360),
        {1: 16, 8: 32, FULL: 128},
        {LITSERVE: ((1, 0), (2, 5), (4, 10)), BENTOML: ((1, 0), (4, 0))},
    ),
}
"""By task; the sizes are those of the pictures that the models were trained on, CIFAR-10 and CamVid."""


@dataclass(frozen=True, slots=True)
class Cost:
    """A round; times are in milliseconds, those of a processor are of one request.

    Attributes:
        rate: answers per second.
        p50: median latency.
        p99: its 99th percentile.
        processor: processor time of all processes of the server.
        model: the part of it in the runs of the model.
        client: processor time of the client.
        batch: requests per run.
    """

    rate: float
    p50: float
    p99: float
    processor: float
    model: float
    client: float
    batch: float

    @property
    def outside(self) -> float:
        """Processor time outside the runs of the model."""
        return self.processor - self.model


@dataclass(slots=True)
class Result:
    """The measurements of a model.

    Attributes:
        model: its id.
        task: "segmentation" or "classification".
        size: of the JPEG files.
        sweep: answers per second by peer and setting, with :data:`FULL` requests in flight.
        chosen: the peers' settings.
        rounds: by requests in flight and side.
        agreement: of each peer's answers with ours, from 0 to 1.
    """

    model: str
    task: str
    size: tuple[int, int]
    sweep: dict[str, dict[Batching, float]] = field(default_factory=dict)
    chosen: dict[str, Batching] = field(default_factory=dict)
    rounds: dict[int, dict[str, list[Cost]]] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def median(self, clients: int, side: str, measure: str) -> float:
        """The median of a measure of :class:`Cost` over rounds."""
        values: list[float] = [getattr(each, measure) for each in self.rounds[clients][side]]
        return statistics.median(values)

    def best_peer(self, clients: int, measure: str, *, is_less_better: bool) -> str:
        """The peer that is better by a measure."""
        choose = min if is_less_better else max
        return choose(PEERS, key=lambda side: self.median(clients, side, measure))

    def over_best(self, clients: int, measure: str, *, is_less_better: bool) -> Ratio:
        """Our measure over that of the better peer, of each round."""
        best = self.best_peer(clients, measure, is_less_better=is_less_better)
        mine, theirs = ([getattr(each, measure) for each in self.rounds[clients][side]] for side in (OURS, best))
        return ratio(mine, theirs)


def num_runs(task: int, num_rounds: int) -> int:
    """How often :func:`measure` calls ``note``."""
    work = WORKS[task]
    return sum(len(each) for each in work.settings.values()) + num_rounds * len(work.requests)


def measure(bundle: Bundle, num_rounds: int, note: Callable[[], None]) -> Result:
    """Chooses the peers' settings, compares the answers, and measures all sides.

    Args:
        bundle: the variant that our server serves; the peers run its plain graph.
        num_rounds: interleaved rounds.
        note: called after every setting and every round.

    Raises:
        ToolError: a server does not start, refuses a request, or its answers differ.
    """
    settings, work = sides.settings_of(bundle, WORKERS), WORKS[bundle.manifest.task]
    pictures = photos(work.size)
    result = Result(bundle.manifest.model_id, settings.task, work.size)
    for name in PEERS:
        rates = result.sweep[name] = dict[Batching, float]()
        for batching in work.settings[name]:
            with sides.peer(name, sides.with_batches(settings, *batching), pictures) as side:
                warm_up(side, work)
                rates[batching] = one_round(side, FULL, work.requests[FULL] // 2).rate
            note()
        result.chosen[name] = max(rates, key=lambda batching: rates[batching])
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(sides.ours(bundle, WORKERS, pictures))]
        for name in PEERS:
            chosen = sides.with_batches(settings, *result.chosen[name])
            running.append(stack.enter_context(sides.peer(name, chosen, pictures)))
        result.agreement = check_same(running, settings.task)
        for side in running:
            warm_up(side, work)
            side.suspend()
        for _ in range(num_rounds):
            for clients, requests in work.requests.items():
                for side in running:
                    side.resume()
                    found = one_round(side, clients, requests)
                    side.suspend()
                    result.rounds.setdefault(clients, {}).setdefault(side.name, []).append(found)
                note()
    return result


def warm_up(side: Side, work: Work) -> None:
    """A quarter of a round: each worker has had requests, and BentoML's dispatcher has chosen its wait."""
    load(side.target, FULL, work.requests[FULL] // 4)


def one_round(side: Side, clients: int, requests: int) -> Cost:
    """Sends the requests of a round; two before it are not counted."""
    load(side.target, 2, 2)
    processor, (model, runs) = processor_seconds(side.pid), side.model_seconds()
    found, client = load(side.target, clients, requests)
    spent, (ran, count) = processor_seconds(side.pid) - processor, side.model_seconds()
    if count == runs:
        raise ToolError(f"no run of the model was counted in {side.name}")
    return Cost(
        rate=requests / found.seconds,
        p50=1e3 * found.percentile(0.5),
        p99=1e3 * found.percentile(0.99),
        processor=1e3 * spent / requests,
        model=1e3 * (ran - model) / requests,
        client=1e3 * client / requests,
        batch=requests / (count - runs),
    )


def photos(size: tuple[int, int]) -> list[bytes]:
    """The project's own photos as JPEG files of a size, cropped to its aspect ratio."""
    found = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(path) as photo:
            scaled = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        scaled.save(file, "JPEG", quality=95)
        found.append(file.getvalue())
    return found
