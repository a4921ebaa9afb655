# SPDX-License-Identifier: Apache-2.0
"""The check of single-pass models: both sides of its comparison, and what it times. The graphs of the CUDA variants run on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnserve_loadtest.gpu import passes
from attnserve_loadtest.gpu.context import Context
from attnserve_loadtest.gpu.results import SUMMARY, Skip
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.execution import factory
from attnserve_server.execution.pass_host import HostPasses
from attnserve_server.passes import PassPayload, PassTensor
from tests.driving import ALL_BUNDLES
from tests.standin.models import copy_with_cuda_graphs, with_wrong_weight

WEIGHTS = {"cbam-cifar10": "model.blocks.4.conv_1.weight", "dnl-camvid": "model.classify.weight"}


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
        runs = found["ms_an_image"]
        assert len(runs) == 4
        assert all(each.keys() == {"graph", "plain"} for each in runs.values()), "PyTorch is timed on CUDA only"
        assert min(value for each in runs.values() for value in each.values()) > 0
    assert len(figures[SUMMARY]) == 4


def test_values_are_not_compared_over_stand_ins_and_pytorch_is_rehearsed(tmp_path: Path) -> None:
    model = "cbam-cifar10"
    copy_with_cuda_graphs(ALL_BUNDLES[model], tmp_path / "models", with_wrong_weight(WEIGHTS[model]))
    figures: dict[str, Any] = {}
    passes.passes(Context(tmp_path / "models", [], tmp_path / "report.json", looks_at_values=False), figures)
    runs = figures[f"{model} fp16"]["ms_an_image"]
    assert [each["torch"] > 0 for name, each in runs.items() if "attention" not in name] == [True, True]


def test_without_a_single_pass_bundle_the_check_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "transformer-en-de").symlink_to(ALL_BUNDLES["transformer-en-de"].parent, target_is_directory=True)
    with pytest.raises(Skip, match="no single-pass bundle"):
        passes.passes(Context(tmp_path, [], tmp_path / "report.json"), {})


def test_the_checks_of_steps_leave_single_pass_bundles_out() -> None:
    found = Context(ALL_BUNDLES["cbam-cifar10"].parents[1], [], Path("report.json"))
    assert not WEIGHTS.keys() & {path.parent.name for path, _ in found.bundles()}
    assert {path.parent.name for path, _ in found.pass_variants()} == WEIGHTS.keys()
    assert [variant for _, variant in found.pass_variants()] == ["fp16"] * 2 + ["fp32"] * 2


def test_a_picture_is_mirrored_inside_its_padding() -> None:
    pixels = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
    inputs = {"image": PassTensor(pixels.shape, pixels.tobytes()), "size": PassTensor((2,), np.array([3, 2], np.int64).tobytes())}
    mirrored = passes.mirrored(PassPayload(inputs, wants_attention=True))
    found = np.frombuffer(mirrored.inputs["image"].data, np.uint8).reshape(pixels.shape)
    assert found.tolist() == pixels[[2, 1, 0, 3]].tolist()
    assert mirrored.wants_attention
    assert mirrored.inputs["size"] == inputs["size"]


def test_sizes_that_were_not_warmed_up_are_left_out_of_the_times() -> None:
    bundle = load_bundle(ALL_BUNDLES["dnl-camvid"], "cuda", "fp16")
    del bundle.manifest.single_pass.picture.sizes[1:]
    runner = passes.started(bundle, captures=True)
    assert {run.size for run in passes.times_of(runner, runner)} == {(480, 360)}
