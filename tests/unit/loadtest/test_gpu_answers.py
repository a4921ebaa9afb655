# SPDX-License-Identifier: Apache-2.0
"""The checks that compare answers: both sides of the comparison, and that a wrong weight in a CUDA variant's graphs is detected.

No GPU is needed to prove that parity compares the CUDA side with the CPU side: here the graphs of the CUDA variants (GroupQueryAttention
in half precision among them) run on ONNX Runtime's CPU provider, under the memory of the CPU. All else is what ``make gpu-check``
runs. The variants of a bundle share ``weights.bin`` and some of them graphs, so the planted weight is in a copy of the graph that only
the manifest's CUDA variant names: the CPU side stays right. A check that took one engine for both sides would find them equal.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_loadtest.gpu import answers, context
from attnserve_loadtest.gpu.context import Context, translate
from attnserve_loadtest.gpu.results import CUT
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.engine.worker.iterative.factory import make_loop
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.execution import factory
from attnserve_server.execution.host import HostMemory
from attnserve_server.request import DecodeOptions, FinishReason, Hypothesis
from attnserve_server.scheduling.scheduler import SchedulerConfig
from tests.driving import ALL_BUNDLES, CAPTION_BUNDLE, DEFAULT_BUNDLE, SENTENCES
from tests.standin.models import copy_with_cuda_graphs, with_wrong_weight

MODELS = DEFAULT_BUNDLE.parents[1]
WEIGHTS = {
    "transformer-en-de": "model.decoder.3.feed_forward.outer.bias",
    "rnnsearch-en-de": "model.align_state.bias",
    "seq2seq-en-de": "model.readout.bias",
    "show-attend-tell-flickr8k": "model.align_state.bias.half",
}
"""By model: one of the step's weights, not one of the largest."""


class CpuInPlaceOfCuda(HostMemory):
    """Runs the graphs of a CUDA variant on the CPU provider."""

    def __init__(self, bundle: Bundle, num_slots: int, *, captures: bool = True) -> None:
        super().__init__(bundle, num_slots)

    def warm_rows(self) -> range:
        return range(1, 3)


@pytest.mark.parametrize("model", sorted(WEIGHTS))
@pytest.mark.parametrize("is_wrong", [False, True])
def test_parity_sees_a_wrong_weight_of_each_cuda_variant(
    model: str, is_wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "CudaMemory", CpuInPlaceOfCuda)
    change = with_wrong_weight(WEIGHTS[model]) if is_wrong else lambda *_: None
    folder = copy_with_cuda_graphs(ALL_BUNDLES[model], tmp_path / "models", change)
    changed = [path.name for path in folder.glob("changed_*")]
    assert bool(changed) == is_wrong
    num_sentences = 12 if load_bundle(folder).manifest.HasField("image") else 40
    checked = Context(tmp_path / "models", SENTENCES[:num_sentences], tmp_path / "report.json")
    figures: dict[str, Any] = {}
    if is_wrong:
        with pytest.raises(AssertionError, match=f"not as on the CPU: {model}"):
            answers.parity(checked, figures)
    else:
        answers.parity(checked, figures)
    assert {figures[name]["sentences"] for name in figures if name.startswith(model)} == {num_sentences}


class FakeLoop:
    """Records its arguments."""

    def __init__(self, bundle: Bundle, config: SchedulerConfig, clock: Any, *, captures: bool) -> None:
        self.bundle, self.config, self.captures = bundle, config, captures

    def start(self) -> None:
        pass


def test_engines_differ_by_device_and_by_the_way_they_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three bundles call their variants on both devices "fp32"."""
    monkeypatch.setattr(context, "make_loop", FakeLoop)
    checked = Context(MODELS, [], tmp_path)
    path = ALL_BUNDLES["rnnsearch-en-de"]
    engines = [
        checked.engine(path, "cpu", "fp32"),
        checked.engine(path, "cuda", "fp32"),
        checked.engine(path, "cuda", "fp32", captures=False),
        checked.engine(path, "cuda", "fp32", slots=256),
    ]
    assert len(set(map(id, engines))) == 4
    assert [engine.bundle.variant.device for engine in engines[:2]] == [manifest_pb2.DEVICE_CPU, manifest_pb2.DEVICE_CUDA]
    assert checked.engine(path, "cuda", "fp32") is engines[1]
    assert [checked.engine(each, "cuda", "fp32").config.max_encoded for each in (path, CAPTION_BUNDLE)] == [0, 1]


def groups(engine: EngineLoop) -> list[tuple[int, int]]:
    """Rows and newly encoded requests of each step, while a request joins before each."""
    sources = [[7, 8, 9, 3]] * 12
    engine.stats()
    translate(engine, sources, [DecodeOptions(max_tokens=limit) for limit in (3, 9, 5)], joining=1)
    return [(step.num_rows, step.num_encoded) for step in engine.stats().steps]


def test_groups_to_encode_do_not_depend_on_the_time_of_a_step(tmp_path: Path) -> None:
    """The engines get different clocks: one on which a step takes no time, one on which it takes a second."""
    bundle = load_bundle(ALL_BUNDLES["seq2seq-en-de"], "cpu", "fp32")
    ours, waiting = [], []
    for tick in (1e-9, 1.0):
        clock = itertools.count(0.0, tick).__next__
        ours.append(groups(Context(MODELS, [], tmp_path, clock=clock).engine(bundle.folder, "cpu", "fp32")))
        engine = make_loop(bundle, SchedulerConfig(context.NUM_SLOTS, admit_wait_s=0.5), itertools.count(0.0, tick).__next__)
        engine.start()
        waiting.append(groups(engine))
    assert ours[0] == ours[1]
    assert waiting[0] != waiting[1], "the clocks would not be told apart"


GOOD, BAD = (Hypothesis([token, 3], -1.0, FinishReason.STOP) for token in (5, 6))


@pytest.mark.parametrize(
    ("precision", "identical", "apart", "is_missed"),
    [
        ("fp16", 0.93, 2.9e-2, False),
        ("fp16", 0.92, 0.0, True),
        ("fp16", 1.0, 4e-2, True),
        ("fp32", 0.98, 9e-4, False),
        ("fp32", 0.97, 0.0, True),
        ("fp32", 1.0, 2e-3, True),
    ],
)
def test_bars_of_parity(precision: str, identical: float, apart: float, is_missed: bool) -> None:
    num_good = round(100 * identical)
    near = Hypothesis(GOOD.tokens, GOOD.score + apart, FinishReason.STOP)
    agreement = answers.agreement_of([near] * num_good + [BAD] * (100 - num_good), [GOOD] * 100)
    assert agreement["identical"] == pytest.approx(identical)
    assert answers.is_apart(agreement, precision) == is_missed


def test_answers_that_are_all_others_or_not_numbers_are_apart() -> None:
    assert answers.is_apart(answers.agreement_of([BAD], [GOOD]), "fp16")
    no_number = Hypothesis(GOOD.tokens, float("nan"), FinishReason.STOP)
    assert answers.is_apart(answers.agreement_of([GOOD, no_number], [GOOD, GOOD]), "fp16")


@pytest.mark.parametrize("check", [answers.graphs, answers.invariance])
@pytest.mark.parametrize("is_wrong", [False, True])
def test_graphs_and_invariance_are_bars_that_can_be_missed(
    check: Any, is_wrong: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With fake answers: those of replays, and of requests that join, differ."""
    checked = Context(MODELS, SENTENCES[:10], tmp_path / "report.json")
    monkeypatch.setattr(Context, "engine", lambda self, path, device, variant, captures=True, **_: captures)

    def made_up(captures: bool, sources: list[Any], _options: Any, joining: int = 0) -> list[Hypothesis]:
        return [BAD if is_wrong and captures and joining else GOOD] * len(sources)

    monkeypatch.setattr(answers, "translate", made_up)
    figures: dict[str, Any] = {}
    if is_wrong:
        with pytest.raises(AssertionError, match="transformer-en-de fp16"):
            check(checked, figures)
    else:
        check(checked, figures)
    assert len([name for name in figures if "show-attend-tell" in name]) >= 1


def test_invariance_reports_bits_but_bars_tokens_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked = Context(MODELS, SENTENCES[:4], tmp_path / "report.json")
    monkeypatch.setattr(Context, "engine", lambda *_, **__: None)
    scores = itertools.count()
    monkeypatch.setattr(
        answers,
        "translate",
        lambda _engine, sources, *_, **__: [Hypothesis(GOOD.tokens, -float(next(scores)), FinishReason.STOP) for _ in sources],
    )
    figures: dict[str, Any] = {}
    answers.invariance(checked, figures)
    assert figures["transformer-en-de fp16 beam 1"] == {
        "full batch": {"bits": 0.0, "tokens": 1.0},
        "joining": {"bits": 0.0, "tokens": 1.0},
    }


def test_a_check_that_has_no_time_left_names_what_it_left_out(tmp_path: Path) -> None:
    checked, figures = Context(MODELS, [], tmp_path, deadline=0.0), dict[str, Any]()
    assert list(checked.in_time(["a", "b"], figures)) == []
    assert figures[CUT] == ["a", "b"]
