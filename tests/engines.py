# SPDX-License-Identifier: Apache-2.0
"""Drives an engine loop in the test's own process: no sockets, no workers, the same code."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnserve_server.bundle.loader import default_models, load_bundle
from attnserve_server.engine.loop import EngineLoop
from attnserve_server.request import DecodeOptions, Hypothesis, RequestFailed, RequestFinished, SequenceRequest
from attnserve_server.scheduling.scheduler import SchedulerConfig
from attnserve_server.tasks.translation import TranslationTask

SENTENCES = Path(__file__).parent / "golden" / "sentences.en.txt"
NUM_SLOTS = 32


def golden_sentences() -> list[str]:
    """The sentences that were written for the tests."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()


class Engine:
    """One bundle's engine, started."""

    def __init__(self, folder: Path | None = None, num_slots: int = NUM_SLOTS) -> None:
        self.bundle = load_bundle(folder or Path(os.environ.get("ATTNSERVE_MODELS", default_models())) / "transformer-en-de" / "1")
        self.task = TranslationTask(self.bundle)
        self.loop = EngineLoop(self.bundle, SchedulerConfig(num_slots), time.monotonic)
        self.loop.start()

    def run(
        self, texts: Sequence[str], options: Sequence[DecodeOptions], *, order: Iterable[int] | None = None, arrivals: int | None = None
    ) -> list[list[Hypothesis]]:
        """Answers of all texts, in their order.

        Args:
            texts: sources.
            options: of each.
            order: the order in which they arrive; theirs where it is None.
            arrivals: so many arrive before each step at most, drawn at random (seeded); all at once where it is None.
        """
        rng = random.Random(0)
        pending = list(range(len(texts)) if order is None else order)
        answers: dict[int, list[Hypothesis]] = {}
        while pending or self.loop.has_work:
            for _ in range(len(pending) if arrivals is None else min(rng.randint(0, arrivals), len(pending))):
                index = pending.pop(0)
                self.loop.submit(SequenceRequest(index, self.task.encode(texts[index]).tokens, options[index]))
            for event in self.loop.step():
                assert not isinstance(event, RequestFailed), event
                if isinstance(event, RequestFinished):
                    answers[event.request_id] = event.hypotheses
        return [answers[index] for index in range(len(texts))]

    def run_alone(self, texts: Sequence[str], options: Sequence[DecodeOptions]) -> list[list[Hypothesis]]:
        """As :meth:`run`, one request at a time."""
        return [self.run([text], [option])[0] for text, option in zip(texts, options, strict=True)]
