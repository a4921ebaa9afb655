# SPDX-License-Identifier: Apache-2.0
"""What the checks share: the bundles, the sources, started engines, and the figures of earlier checks.

The checks run the engine loop, as a worker does. All access to the server's execution and engine is here, in ``stepping.py``, and
for single-pass models in ``passes.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sentencepiece

from attnserve.v1 import manifest_pb2
from attnserve_loadtest.gpu.results import CUT, Skip, load
from attnserve_server.bundle.loader import Bundle, find_bundles, load_bundle
from attnserve_server.engine.worker.iterative.factory import make_loop
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import (
    DecodeOptions,
    Done,
    Failed,
    Hypothesis,
    ImageSource,
    Source,
    sequence_work,
)
from attnserve_server.scheduling.scheduler import SchedulerConfig

NUM_SLOTS = 64
DEFAULT_MODEL = "transformer-en-de"
"""The model of the first checks, and of the comparisons with PyTorch and CTranslate2."""
_MARGIN = 0.15
"""Share of a check's limit that must be left to start another item."""
_SEED = 0

T = TypeVar("T")
EngineKey = tuple[Path, str, str, bool, int]
"""Bundle, device, variant, captures, slots. Variants of two devices may have the same name."""


@dataclass(slots=True)
class Context:
    """What the checks share.

    Attributes:
        models: the model repository.
        sentences: the texts to translate.
        report: the JSON file of all results.
        looks_at_values: False over stand-in libraries, whose kernels compute nothing.
        deadline: by the monotonic clock, when this check's process is killed.
        clock: of the engines; monotonic.
    """

    models: Path
    sentences: list[str]
    report: Path
    looks_at_values: bool = True
    deadline: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    engines: dict[EngineKey, EngineLoop] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.models, self.report = Path(self.models), Path(self.report)

    def bundles(self) -> list[tuple[Path, list[str]]]:
        """Returns the folder of each bundle whose model decodes step by step, and the names of its CUDA variants.

        The default model's is first, then by path.
        """
        return self._bundles(is_single_pass=False)

    def _bundles(self, *, is_single_pass: bool) -> list[tuple[Path, list[str]]]:
        found = []
        for path in sorted(find_bundles(self.models), key=lambda path: (path.parent.name != DEFAULT_MODEL, path)):
            manifest = load_bundle(path).manifest
            if manifest.HasField("single_pass") != is_single_pass:
                continue
            found.append((path, [each.name for each in manifest.variants if each.device == manifest_pb2.DEVICE_CUDA]))
        return found

    def cuda_variants(self, *, is_default: bool | None = None) -> list[tuple[Path, str]]:
        """Bundle and CUDA variant: of the default model, of all others, or (None) of all.

        Raises:
            Skip: there are none.
        """
        found = [(path, variant) for path, variants in self.bundles() for variant in variants]
        if is_default is not None:
            found = [each for each in found if (each[0].parent.name == DEFAULT_MODEL) == is_default]
        if not found:
            raise Skip(f"no such bundle with a CUDA variant in {self.models}")
        return found

    def pass_variants(self) -> list[tuple[Path, str]]:
        """Bundle and CUDA variant of all models that run once, the first variant of each before the second ones.

        Raises:
            Skip: there are none.
        """
        bundles = self._bundles(is_single_pass=True)
        found = [(rank, path, variant) for path, names in bundles for rank, variant in enumerate(names)]
        if not found:
            raise Skip(f"no single-pass bundle with a CUDA variant in {self.models}")
        return [(path, variant) for _, path, variant in sorted(found)]

    def engine(self, path: Path, device: str, variant: str, *, captures: bool = True, slots: int = NUM_SLOTS) -> EngineLoop:
        """A started engine; one for each bundle, device, variant, capture mode and number of slots.

        It admits without a wait, so that the groups of requests that are encoded together, and so the kernels, do not depend on the
        speed of the steps. Images are encoded one by one, because cuDNN plans all convolutions again for each new batch size, which
        may take seconds.
        """
        key = path, device, variant, captures, slots
        if key not in self.engines:
            bundle = load_bundle(path, device, variant)
            config = SchedulerConfig(slots, admit_wait_s=0.0, max_encoded=1 if bundle.manifest.HasField("image") else 0)
            self.engines[key] = make_loop(bundle, config, self.clock, captures=captures)
            self.engines[key].start()
        return self.engines[key]

    def in_time(self, items: Iterable[T], figures: dict[str, Any], label: Callable[[T], str] = str) -> Iterator[T]:
        """Yields items while at least the share ``_MARGIN`` of the check's time limit is left; all items without a deadline.

        Args:
            items: what the check measures, in order.
            figures: the labels of the items that were left out are appended to ``figures[CUT]`` when the iteration ends.
            label: returns an item's label.
        """
        limit = self.deadline - self._began
        cut = list[str]()
        for item in items:
            if limit < float("inf") and self.deadline - time.monotonic() < _MARGIN * limit:
                cut.append(label(item))
            else:
                yield item
        if cut:
            figures[CUT] = [*figures.get(CUT, []), *cut]

    def earlier(self, check: str) -> dict[str, Any]:
        """The figures of an earlier check; empty if it did not run."""
        return next((result.figures for result in load(self.report) if result.name == check), {})


def options_for(bundle: Bundle, beam_size: int, max_tokens: int = 128) -> DecodeOptions:
    """Returns decode options with ``max_tokens``, but at most the model's ``max_target_tokens``.

    The engine checks no options, so ``beam_size`` must be one that the model allows: it is not limited here.
    """
    return DecodeOptions(beam_size=beam_size, max_tokens=min(max_tokens, bundle.manifest.limits.max_target_tokens))


def sources_of(bundle: Bundle, sentences: Sequence[str]) -> list[Source]:
    """The sentences as the model reads them; for a model that reads images, as many images of smooth noise."""
    vocabulary, shape = bundle.manifest.vocabulary, bundle.manifest.image
    if bundle.manifest.HasField("image"):
        rng, times = np.random.default_rng(_SEED), (shape.height // 7, shape.width // 7)
        images = (np.kron(rng.integers(0, 256, (7, 7, 3), np.uint8), np.ones((*times, 1), np.uint8)) for _ in sentences)
        return [ImageSource(image.tobytes(), shape.grid_height * shape.grid_width) for image in images]
    processor = sentencepiece.SentencePieceProcessor(model_proto=bundle.read(vocabulary.sentencepiece_file))
    return [[*processor.encode(text), vocabulary.end_id] for text in sentences]


def translate(
    engine: EngineLoop, sources: Sequence[Source], options: DecodeOptions | Sequence[DecodeOptions], joining: int = 0
) -> list[Hypothesis]:
    """The best hypothesis of each source.

    Args:
        engine: started, without work.
        sources: the requests' sources.
        options: of all requests; of several options, source i takes number i modulo their count.
        joining: number of sources that arrive before each step; 0 for all at once.

    Raises:
        AssertionError: the engine failed a request.
    """
    several = [options] if isinstance(options, DecodeOptions) else options
    waiting = [sequence_work(index, each, several[index % len(several)]) for index, each in enumerate(sources)]
    answers: dict[int, Hypothesis] = {}
    while waiting or engine.has_work:
        count = joining or len(waiting)
        for request in waiting[:count]:
            engine.submit(request)
        del waiting[:count]
        for event in engine.step():
            if isinstance(event, Failed):
                raise AssertionError(f"{event.reason}: {event.message}")
            if isinstance(event, Done):
                answers[event.request_id] = event.outcome.hypotheses[0]
    return [answers[index] for index in range(len(sources))]


def torch_device() -> str:
    """Returns "cuda" where PyTorch can use it, else "cpu".

    Raises:
        Skip: there is no PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise Skip("PyTorch is not installed") from error
    return "cuda" if torch.cuda.is_available() else "cpu"
