# SPDX-License-Identifier: Apache-2.0
"""The check of served single-pass models, with all servers on the CPU: what it asks, and that wrong answers are detected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_client.demo.server import DemoServer
from attnserve_loadtest.bench import servers
from attnserve_loadtest.gpu import served_passes
from attnserve_loadtest.gpu.context import Context
from attnserve_loadtest.gpu.results import SUMMARY
from attnserve_server.bundle.loader import load_bundle
from tests.driving import ALL_BUNDLES
from tests.standin.models import copy_with_graphs, with_wrong_weight

ANSWERS = {"cbam-cifar10": 10, "dnl-camvid": 10, "nonlocal-fight": 4, "sagan-cifar10": 20}
"""By model: number of answers about five photos, two clips or ten classes, without attention and with it."""


IN_TURN = ["cbam-cifar10", "nonlocal-fight", "sagan-cifar10", "dnl-camvid"]
"""The models with the fewest sizes of inputs first."""


def on_cpu(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Path] = lambda models: models) -> list[list[str]]:
    """Starts the servers that are requested for CUDA on the CPU, with changed models; returns a list of the models of each server."""
    asked, ours = list[list[str]](), servers.server_process

    def start(models: Path, variant: str, *flags: str) -> DemoServer:
        assert (variant, *flags[:-1]) == ("auto", "--workers", "1", "--device")
        asked.append([flags[-1], *sorted(each.name for each in models.iterdir())])
        return ours(change(models) if flags[-1] == "cuda" else models, "fp32", *flags[:-1], "cpu")

    monkeypatch.setattr(servers, "server_process", start)
    monkeypatch.setattr(served_passes, "REPETITIONS", 2)
    return asked


def with_models(folder: Path, *models: str) -> Path:
    """A model repository with links to these models."""
    folder.mkdir()
    for model in models:
        (folder / model).symlink_to(ALL_BUNDLES[model].parent)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "models", [pytest.param(["sagan-cifar10"], id="one"), pytest.param(IN_TURN, id="all", marks=pytest.mark.load)]
)
def test_every_single_pass_model_is_served_and_its_answers_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: list[str]
) -> None:
    repository = with_models(tmp_path / "models", *models) if models != IN_TURN else ALL_BUNDLES[models[0]].parents[1]
    asked, figures = on_cpu(monkeypatch), dict[str, Any]()
    served_passes.served_passes(Context(repository, [], tmp_path / "report.json"), figures)
    assert asked == [["cpu", *sorted(models)], *(["cuda", model] for model in models)]
    assert figures.keys() == {*models, SUMMARY}
    for model in models:
        found = figures[model]
        assert found["answers"] == ANSWERS[model]
        assert (found["share_apart"], found["most_apart"]) == (0.0, 0.0), model
        assert 0 < found["load_s"] < found["start_s"]
        assert found["ms"] > 0
    assert len(figures[SUMMARY]) == len(models)


@pytest.mark.load
@pytest.mark.timeout(300)
def test_a_served_model_with_a_wrong_weight_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its golden answers are not compared: they would stop it before it is asked."""
    model, change = "sagan-cifar10", with_wrong_weight("model.output.weight.half")
    copy_with_graphs(ALL_BUNDLES[model], tmp_path / "wrong", change, manifest_pb2.DEVICE_CPU)
    assert list((tmp_path / "wrong" / model / "1").glob("changed_*"))
    on_cpu(monkeypatch, lambda _: tmp_path / "wrong")
    monkeypatch.setenv("ATTNSERVE_ENGINE_CHECK_ANSWERS", "false")
    checked, figures = Context(with_models(tmp_path / "right", model), [], tmp_path / "report.json"), dict[str, Any]()
    with pytest.raises(AssertionError, match=f"not as a server on the CPU: {model}"):
        served_passes.served_passes(checked, figures)
    assert not figures[model]["is_within"]
    checked.looks_at_values = False
    served_passes.served_passes(checked, {})


@pytest.mark.load
@pytest.mark.timeout(300)
def test_a_server_that_does_not_start_leaves_the_other_models_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The golden answers of the first model stop it."""
    change = with_wrong_weight("model.blocks.4.conv_1.weight.half")
    copy_with_graphs(ALL_BUNDLES["cbam-cifar10"], tmp_path / "wrong", change, manifest_pb2.DEVICE_CPU)
    on_cpu(monkeypatch, lambda models: tmp_path / "wrong" if (models / "cbam-cifar10").exists() else models)
    right, figures = with_models(tmp_path / "right", "cbam-cifar10", "sagan-cifar10"), dict[str, Any]()
    with pytest.raises(AssertionError, match=r"not as a server on the CPU: cbam-cifar10 \([^)]*"):
        served_passes.served_passes(Context(right, [], tmp_path / "report.json"), figures)
    assert figures["cbam-cifar10"].keys() == {"error"}
    assert figures["sagan-cifar10"]["is_within"]


@pytest.mark.parametrize("model", sorted(ANSWERS))
def test_every_answer_has_a_tolerance(model: str) -> None:
    for variant in ("fp16", "fp32"):
        bundle = load_bundle(ALL_BUNDLES[model], "cuda", variant)
        assert {"classes", "probabilities", "pixels"} & served_passes.tolerances_of(bundle).keys()
