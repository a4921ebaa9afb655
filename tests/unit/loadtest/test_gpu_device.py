# SPDX-License-Identifier: Apache-2.0
"""The results of GPU checks if something is missing: the device, its driver, PyTorch, CTranslate2, a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from attnserve_loadtest.gpu import baselines, device
from attnserve_loadtest.gpu.context import Context
from attnserve_loadtest.gpu.results import NoDevice, Skip
from tests.driving import DEFAULT_BUNDLE

MODELS = DEFAULT_BUNDLE.parents[1]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(MODELS, ["a"], tmp_path / "report.json")


def test_an_onnxruntime_without_cuda_is_no_device(context: Context) -> None:
    figures: dict[str, Any] = {}
    with pytest.raises(NoDevice, match="has no CUDA provider: install onnxruntime-gpu"):
        device.environment(context, figures)
    assert figures["onnxruntime"] == onnxruntime.__version__


def test_a_driver_that_cannot_be_used_is_no_device(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("CUDA failure 35: driver version is insufficient\nmore")

    monkeypatch.setattr(device, "provider_problem", str)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", refuse)
    with pytest.raises(NoDevice, match=r"no CUDA device can be used: CUDA failure 35: driver version is insufficient$"):
        device.environment(context, {})


@pytest.mark.parametrize("check", [device.floor, baselines.torch_steps, baselines.compiled])
def test_without_pytorch_or_its_cuda_what_needs_it_is_skipped(
    check: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Skip, match="PyTorch has no CUDA here"):
        check(context, {})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Skip, match="PyTorch is not installed"):
        check(context, {})


def test_a_repository_without_the_bundles_of_a_check_is_skipped(tmp_path: Path) -> None:
    (tmp_path / DEFAULT_BUNDLE.parent.name).symlink_to(DEFAULT_BUNDLE.parent)
    context = Context(tmp_path, [], tmp_path / "report.json")
    assert [path.parent.name for path, _ in context.cuda_variants()] == [DEFAULT_BUNDLE.parent.name]
    with pytest.raises(Skip, match="no such bundle with a CUDA variant"):
        context.cuda_variants(is_default=False)
