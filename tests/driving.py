# SPDX-License-Identifier: Apache-2.0
"""Drives an engine loop in this process: requests that join at chosen steps, and answers in a form that can be compared."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle, find_bundles, load_bundle
from attnserve_server.engine.worker.iterative.factory import make_loop
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import Done, Failed, Hypothesis, SequenceWork
from attnserve_server.scheduling.scheduler import SchedulerConfig

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = "transformer-en-de"
ALL_BUNDLES = {
    path.parent.name: path for path in find_bundles(Path(os.environ.get("ATTNSERVE_MODELS", ROOT / "deploy" / "models")))
}
"""All served bundles by model id."""
BUNDLES = {model: path for model, path in ALL_BUNDLES.items() if load_bundle(path).manifest.task == manifest_pb2.TASK_TRANSLATION}
"""The bundles of translation models."""
STEP_BUNDLES = {model: path for model, path in ALL_BUNDLES.items() if not load_bundle(path).manifest.HasField("single_pass")}
"""The bundles of models that decode step by step."""
CAPTION_BUNDLE = ALL_BUNDLES["show-attend-tell-flickr8k"]
DEFAULT_BUNDLE = BUNDLES[DEFAULT_MODEL]
NUM_SLOTS = 32


def read_sentences(path: Path) -> list[str]:
    """The lines of a text file, gzipped or not."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [line.strip() for line in text.decode().splitlines()]


GOLDEN = ROOT / "tests" / "golden" / "sentences.en.txt"
SENTENCES_ARE_GOLDEN = not os.environ.get("PARITY_SENTENCES")
SENTENCES = read_sentences(Path(os.environ.get("PARITY_SENTENCES") or GOLDEN))
"""The source texts of all parity tests: the golden sentences, or a file that the environment names (`make parity DATA=...`)."""

Answer = list[tuple[list[int], float, int, tuple[tuple[int, ...], bytes] | None]]


def cpu_variants() -> list[tuple[str, str]]:
    """Model and variant of all variants for the CPU."""
    return [
        (model, variant.name)
        for model, path in BUNDLES.items()
        for variant in load_bundle(path).manifest.variants
        if variant.device == manifest_pb2.DEVICE_CPU
    ]


def started_engine(bundle: Bundle, num_slots: int = NUM_SLOTS) -> EngineLoop:
    """A warm engine."""
    engine = make_loop(bundle, SchedulerConfig(num_slots), time.monotonic)
    engine.start()
    return engine


def run(
    engine: EngineLoop,
    requests: Iterable[SequenceWork],
    *,
    num_joining: Callable[[], int] | None = None,
    leaving: dict[int, int] | None = None,
) -> dict[int, Done]:
    """Runs requests and returns the answers by id; cancelled requests have none.

    Args:
        engine: without work.
        requests: in the order of their arrival.
        num_joining: how many arrive before each step; all before the first one if it is not given.
        leaving: ids of requests whose client leaves, and after how many of the run's steps.
    """
    waiting, answers, dropped, num_steps = list(requests), dict[int, Done](), set[int](), 0
    while waiting or engine.has_work:
        count = len(waiting) if num_joining is None else num_joining()
        for request in waiting[:count]:
            engine.submit(request)
        del waiting[:count]
        for request_id, step in (leaving or {}).items():
            if step == num_steps:
                engine.cancel(request_id, "client")
        for event in engine.step():
            if isinstance(event, Done):
                answers[event.request_id] = event
            elif isinstance(event, Failed):
                assert leaving and event.request_id in leaving, event
                dropped.add(event.request_id)
        num_steps += 1
    assert not dropped & set(answers)
    return answers


def one_by_one(engine: EngineLoop, requests: Iterable[SequenceWork]) -> dict[int, Done]:
    """Runs each request alone in the engine, and returns all answers."""
    answers: dict[int, Done] = {}
    for request in requests:
        answers |= run(engine, [request])
    return answers


def content(answers: dict[int, Done]) -> dict[int, Answer]:
    """Everything of an answer that must not depend on batch mates, to the last bit."""
    return {request_id: [_of_hypothesis(one) for one in answer.outcome.hypotheses] for request_id, answer in answers.items()}


def attention_of(hypothesis: Hypothesis) -> np.ndarray:
    """The weights as an array of their shape."""
    assert hypothesis.attention is not None
    return np.frombuffer(hypothesis.attention.data, np.float32).reshape(hypothesis.attention.shape)


def _of_hypothesis(one: Hypothesis) -> tuple[list[int], float, int, tuple[tuple[int, ...], bytes] | None]:
    attention = None if one.attention is None else (tuple(one.attention.shape), one.attention.data)
    return one.tokens, one.score, int(one.finish_reason), attention
