# SPDX-License-Identifier: Apache-2.0
"""The check of single-pass models: both sides of its comparison, and what it times. The graphs of the CUDA variants run on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnserve_loadtest.gpu import passes
from attnserve_loadtest.gpu.context import Context
from attnserve_loadtest.gpu.pass_inputs import made, payloads_of, sizes_of, varied
from attnserve_loadtest.gpu.results import SUMMARY, Skip
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.execution import factory
from attnserve_server.execution.factory import make_pass_runner
from attnserve_server.execution.pass_host import HostPasses
from attnserve_server.execution.pass_runner import PassRunner
from attnserve_server.passes import PassPayload, PassTensor
from tests.driving import ALL_BUNDLES
from tests.standin.models import copy_with_cuda_graphs, with_wrong_weight

WEIGHTS = {
    "cbam-cifar10": "model.blocks.4.conv_1.weight",
    "dnl-camvid": "model.classify.weight",
    "nonlocal-fight": "model.head.classify.weight",
    "sagan-cifar10": "model.output.weight",
}


class CpuInPlaceOfCuda(HostPasses):
    """Runs the graphs of a CUDA variant on the CPU provider."""

    def __init__(self, bundle: Bundle, *, captures: bool = True) -> None:
        super().__init__(bundle)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "CudaPasses", CpuInPlaceOfCuda)
    monkeypatch.setattr(passes, "BATCHES", (1, 2))
    monkeypatch.setattr(passes, "MOST_SIZES", 1)
    monkeypatch.setattr(passes, "REPETITIONS", 1)


@pytest.mark.parametrize("model", sorted(WEIGHTS))
def test_a_wrong_weight_of_a_cuda_variant_is_seen(model: str, tmp_path: Path) -> None:
    copy_with_cuda_graphs(ALL_BUNDLES[model], tmp_path / "models", with_wrong_weight(WEIGHTS[model]))
    assert list((tmp_path / "models" / model / "1").glob("changed_*"))
    figures: dict[str, Any] = {}
    with pytest.raises(AssertionError, match=f"not as on the CPU: {model} fp16"):
        passes.passes(Context(tmp_path / "models", [], tmp_path / "report.json"), figures)
    assert not all(each["is_within"] for each in figures[f"{model} fp16"]["outputs"].values())


@pytest.mark.parametrize("model", sorted(WEIGHTS))
def test_right_graphs_pass_and_are_timed(model: str, tmp_path: Path) -> None:
    (tmp_path / model).symlink_to(ALL_BUNDLES[model].parent, target_is_directory=True)
    figures: dict[str, Any] = {}
    passes.passes(Context(tmp_path, [], tmp_path / "report.json"), figures)
    for variant in ("fp16", "fp32"):
        found = figures[f"{model} {variant}"]
        assert all(each["is_within"] for each in found["outputs"].values())
        runs = found["ms_an_input"]
        assert len(runs) == 4
        assert all(each.keys() == {"graph", "plain"} for each in runs.values()), "PyTorch is timed on CUDA only"
        assert min(value for each in runs.values() for value in each.values()) > 0
    assert len(figures[SUMMARY]) == 4


@pytest.mark.parametrize("model", sorted(WEIGHTS))
def test_values_are_not_compared_over_stand_ins_and_pytorch_is_rehearsed(model: str, tmp_path: Path) -> None:
    copy_with_cuda_graphs(ALL_BUNDLES[model], tmp_path / "models", with_wrong_weight(WEIGHTS[model]))
    figures: dict[str, Any] = {}
    passes.passes(Context(tmp_path / "models", [], tmp_path / "report.json", looks_at_values=False), figures)
    runs = figures[f"{model} fp16"]["ms_an_input"]
    assert [each["torch"] > 0 for name, each in runs.items() if "attention" not in name] == [True, True]


def test_without_a_single_pass_bundle_the_check_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "transformer-en-de").symlink_to(ALL_BUNDLES["transformer-en-de"].parent, target_is_directory=True)
    with pytest.raises(Skip, match="no single-pass bundle"):
        passes.passes(Context(tmp_path, [], tmp_path / "report.json"), {})


def test_the_checks_of_steps_leave_single_pass_bundles_out() -> None:
    found = Context(ALL_BUNDLES["cbam-cifar10"].parents[1], [], Path("report.json"))
    assert not WEIGHTS.keys() & {path.parent.name for path, _ in found.bundles()}
    assert {path.parent.name for path, _ in found.pass_variants()} == WEIGHTS.keys()
    assert [variant for _, variant in found.pass_variants()] == ["fp16"] * 4 + ["fp32"] * 4


def test_a_picture_is_mirrored_inside_its_padding() -> None:
    pixels = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
    inputs = {"image": PassTensor(pixels.shape, pixels.tobytes()), "size": PassTensor((2,), np.array([3, 2], np.int64).tobytes())}
    bundle = load_bundle(ALL_BUNDLES["dnl-camvid"], "cuda")
    mirrored = varied(bundle, PassPayload(inputs, wants_attention=True), 0)
    found = np.frombuffer(mirrored.inputs["image"].data, np.uint8).reshape(pixels.shape)
    assert found.tolist() == pixels[[2, 1, 0, 3]].tolist()
    assert mirrored.wants_attention
    assert mirrored.inputs["size"] == inputs["size"]


def test_each_frame_of_a_clip_is_mirrored_and_latents_are_drawn_anew() -> None:
    clip = np.arange(2 * 3 * 2 * 3, dtype=np.uint8).reshape(2, 3, 2, 3)
    bundle = load_bundle(ALL_BUNDLES["nonlocal-fight"], "cuda")
    found = varied(bundle, PassPayload({"clip": PassTensor(clip.shape, clip.tobytes())}), 0).inputs["clip"]
    assert np.frombuffer(found.data, np.uint8).reshape(found.shape).tolist() == clip[:, ::-1].tolist()
    bundle = load_bundle(ALL_BUNDLES["sagan-cifar10"], "cuda")
    golden = payloads_of(bundle)[-1]
    others = [varied(bundle, golden, seed).inputs for seed in (0, 1)]
    assert len({each["latent"].data for each in (golden.inputs, *others)}) == 3
    assert all(each["query"] == golden.inputs["query"] for each in others)


@pytest.mark.parametrize("model", sorted(WEIGHTS))
@pytest.mark.parametrize("wants_attention", [False, True])
def test_inputs_are_made_as_each_graph_declares_them(model: str, wants_attention: bool) -> None:
    bundle = load_bundle(ALL_BUNDLES[model], "cuda")
    runner = make_pass_runner(bundle, 1)
    for size in sizes_of(bundle):
        payload = made(bundle, size, 0, wants_attention=wants_attention)
        assert runner.key(payload).wants_attention == wants_attention
        queries = np.frombuffer(payload.inputs["query"].data, np.int64) if "query" in payload.inputs else np.zeros(1)
        assert 0 <= queries.min() <= queries.max() < {"dnl-camvid": 900, "nonlocal-fight": 294, "sagan-cifar10": 256}.get(model, 1)


def test_an_input_that_is_not_known_cannot_be_made() -> None:
    bundle = load_bundle(ALL_BUNDLES["cbam-cifar10"], "cuda")
    bundle.variant.passes[0].graph.inputs.add(name="audio", axes=["batch", "8"])
    with pytest.raises(ValueError, match="cbam-cifar10: an input named audio cannot be made"):
        made(bundle, (32, 32), 0, wants_attention=False)


def test_a_fault_of_a_bucket_of_several_requests_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    run = PassRunner.run

    def swapping(self: PassRunner, key: Any, payloads: Any) -> Any:
        answers, is_cold = run(self, key, payloads)
        return answers[::-1], is_cold

    path = ALL_BUNDLES["cbam-cifar10"]
    runner, expected = passes.started(load_bundle(path, "cuda", "fp32"), captures=True), passes.expected_of(path)
    assert passes.parity(runner, expected)["probabilities"]["is_within"]
    monkeypatch.setattr(PassRunner, "run", swapping)
    assert not passes.parity(runner, expected)["probabilities"]["is_within"]


def test_sizes_that_were_not_warmed_up_are_left_out_of_the_times() -> None:
    bundle = load_bundle(ALL_BUNDLES["dnl-camvid"], "cuda", "fp16")
    del bundle.manifest.single_pass.picture.sizes[1:]
    runner = passes.started(bundle, captures=True)
    assert {run.size for run in passes.times_of(runner, runner)} == {(480, 360)}
