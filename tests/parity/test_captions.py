# SPDX-License-Identifier: Apache-2.0
"""From image files to captions: the server's answers equal PyTorch's, and batch mates change no bit of them.

The reference prepares images by itself (Pillow, step by step as the proto says), runs the module with the bundle's weights, and
decodes by its own loop.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from attnserve_export.training.captions.search import caption_tokens
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import AttentionDetail, DecodeOptions, SequenceWork, Terms, sequence_work
from attnserve_server.tasks.caption import CaptionTask
from attnserve_server.tasks.images import ImageLimits
from tests.driving import CAPTION_BUNDLE, attention_of, content, one_by_one, run, started_engine
from tests.parity.torch_module import module_of_bundle
from tests.photos import PHOTOS, variations
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

TOLERANCE = 1e-4
LIMITS = ImageLimits(20_000_000, 40_000_000)
SIZES = [(60, 40), (224, 224), (320, 240), (640, 480), (768, 1024), (1280, 720), (4032, 3024)]


@pytest.fixture(scope="module")
def engine() -> EngineLoop:
    return started_engine(load_bundle(CAPTION_BUNDLE, variant="fp32"))


@pytest.fixture(scope="module")
def module() -> Any:
    return module_of_bundle(CAPTION_BUNDLE)


@pytest.fixture(scope="module")
def task(engine: EngineLoop) -> CaptionTask:
    return CaptionTask(engine.bundle)


def files() -> list[bytes]:
    """Photos of the sizes and formats that clients send."""
    found = []
    for number, size in enumerate(SIZES):
        for path in PHOTOS:
            photo, file = ImageOps.fit(Image.open(path).convert("RGB"), size), io.BytesIO()
            photo.save(file, ("JPEG", "PNG", "WEBP")[number % 3], quality=90)
            found.append(file.getvalue())
    return found


def prepared(data: bytes) -> np.ndarray:
    """A file as the model reads it, decoded at full size and then scaled: (224, 224, 3)."""
    image = Image.open(io.BytesIO(data))
    if image.format == "JPEG":
        image.draft("RGB", (448, 448))
    return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


@dataclass
class Asked:
    """Requests for captions of files, with the same options."""

    task: CaptionTask
    options: DecodeOptions

    def of(self, files: list[bytes], first_id: int = 0) -> list[SequenceWork]:
        sources = [self.task.source_of(self.task.read(data, LIMITS)) for data in files]
        return [sequence_work(first_id + index, source, self.options, Terms()) for index, source in enumerate(sources)]


def test_what_is_encoded(engine: EngineLoop, module: Any, task: CaptionTask) -> None:
    runner = engine.runner
    for data in files():
        source, pixels = task.source_of(task.read(data, LIMITS)), prepared(data)
        assert np.array_equal(np.frombuffer(source.pixels, np.uint8).reshape(224, 224, 3), pixels)
        found = runner.encode([source])
        with torch.no_grad():
            memory = module.encode(torch.from_numpy(pixels[None].copy()))
            theirs = (memory, 2 * module.align_memory(memory), *module.initial_state(memory.mean(1)))
        for name, expected in zip(("memory", "key", "hidden", "cell"), theirs, strict=True):
            assert np.abs(found[name] - expected.numpy()).max() <= TOLERANCE


def test_whole_captions_and_their_maps(engine: EngineLoop, module: Any, task: CaptionTask) -> None:
    """Greedy captions token by token, where the margin of each choice exceeds rounding; their scores and maps too."""
    images = files()
    asked = Asked(task, DecodeOptions(attention=AttentionDetail.MEAN, max_tokens=40))
    answers = run(engine, asked.of(images))
    num_unclear = 0
    for index, data in enumerate(images):
        (mine,) = answers[index].outcome.hypotheses
        with torch.no_grad():
            memory = module.encode(torch.from_numpy(prepared(data)[None].copy()))
            target = torch.tensor([[2, *mine.tokens[:-1]]])
            hidden, (maps,) = module.decode(memory, torch.empty(0), target)
            log_probs = module.next_logits(hidden)[0].log_softmax(-1)
        best = log_probs.topk(2)
        is_clear = bool(((best.values[:, 0] - best.values[:, 1]) > TOLERANCE).all())
        num_unclear += not is_clear
        assert not is_clear or best.indices[:, 0].tolist() == mine.tokens
        score = float(log_probs.gather(1, torch.tensor(mine.tokens)[:, None]).mean())
        assert mine.score == pytest.approx(score, abs=TOLERANCE)
        weights = attention_of(mine)
        assert np.abs(weights - maps[0, 0].numpy()).max() <= TOLERANCE
        assert np.abs(weights.sum(-1) - 1).max() <= 1e-5
    assert num_unclear <= 1


def test_beams_are_the_trainers(engine: EngineLoop, module: Any, task: CaptionTask) -> None:
    """The search that selected the weights in training gives the served captions: the best of five beams."""
    images = variations(40)
    answers = run(engine, Asked(task, DecodeOptions(beam_size=5, max_tokens=30)).of(images))
    with torch.no_grad():
        features = torch.cat([module.features(torch.from_numpy(prepared(data)[None].copy())) for data in images])
    theirs = caption_tokens(module, features, 5)
    mine = [[token for token in answers[index].outcome.hypotheses[0].tokens if token != 3] for index in range(len(images))]
    assert sum(one == other for one, other in zip(mine, theirs, strict=True)) >= 38


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("beam_size", [1, 5])
def test_batch_mates_change_no_bit(task: CaptionTask, variant: str, beam_size: int) -> None:
    engine = started_engine(load_bundle(CAPTION_BUNDLE, variant=variant))
    asked = Asked(task, DecodeOptions(beam_size=beam_size, num_hypotheses=beam_size, attention=AttentionDetail.MEAN))
    requests = asked.of(variations(40))
    alone = content(one_by_one(engine, requests))
    rng = random.Random(beam_size)
    for _ in range(3):
        rng.shuffle(requests)
        assert content(run(engine, requests, num_joining=lambda: rng.randrange(4))) == alone
