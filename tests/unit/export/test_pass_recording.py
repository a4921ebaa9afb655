# SPDX-License-Identifier: Apache-2.0
"""Figures of single-pass models that were measured elsewhere are written into a copy of a shipped bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attnserve_export.bundle_writer import read_manifest
from attnserve_export.exporter import ExportError
from attnserve_export.pass_card import verdict
from attnserve_export.recording import record as record_bytes

MODELS = Path(__file__).parents[3] / "deploy" / "models"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("dnl-camvid", "cbam-cifar10", "nonlocal-fight"):
        shutil.copytree(MODELS / name, tmp_path / name)
    return tmp_path


def record(folder: Path, evaluation: dict[str, Any]) -> None:
    assert record_bytes(folder, json.dumps(evaluation).encode()) == folder


def segmentation(variant: str, miou: float) -> dict[str, Any]:
    return {
        "evaluation": "segmentation", "model": "dnl-camvid", "variant": variant, "miou": miou, "accuracy": 90.0,
        "class_iou": {"Sky": 94.0, "Road": 96.5, "Pole": None}, "seconds": 2.5, "images": 101, "split": "val", "limit": None,
    }  # fmt: skip


def classification(variant: str, accuracy: float) -> dict[str, Any]:
    return {
        "evaluation": "classification", "model": "cbam-cifar10", "variant": variant, "accuracy": accuracy,
        "class_accuracy": {"cat": 75.0}, "confusion": [[1]], "seconds": 2.5, "images": 5000, "split": "val", "limit": None,
    }  # fmt: skip


def segmentation_gain(low: float, high: float) -> dict[str, Any]:
    pairs = {pair: [(low + high) / 2, low, high] for pair in ("dnl - none", "nonlocal - none", "dnl - nonlocal")}
    scores = {block: [60.0, 61.0] for block in ("dnl", "nonlocal", "none")}
    return {
        "evaluation": "segmentation_gain", "seeds": [1, 2], "block_frames": 10, "val_miou": scores, "held_back_miou": scores,
        "gains": pairs,
    }  # fmt: skip


def test_scores_through_the_server_are_recorded_by_variant(models: Path) -> None:
    record(models / "dnl-camvid" / "1", segmentation("fp32", 66.22))
    record(models / "dnl-camvid" / "1", segmentation("fp16", 66.1))
    record(models / "dnl-camvid" / "1", segmentation("fp32", 66.25))
    record(models / "cbam-cifar10" / "1", classification("fp32", 88.16))
    quality = read_manifest(models / "dnl-camvid" / "1").quality
    command = "attnserve evaluate segmentation --data DIR --model dnl-camvid --split val"
    assert [(each.variant, each.metric, each.value, each.part) for each in quality if not each.part] == [
        ("fp32", "miou", 66.25, ""),
        ("fp16", "miou", 66.1, ""),
    ]
    assert {each.part for each in quality} == {"", "Sky", "Road"}  # a class that does not occur has no figure
    assert {each.command for each in quality} == {command}
    card = (models / "dnl-camvid" / "1" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| fp32 | camvid val | 66.25 | `{command}` |" in card
    card = (models / "cbam-cifar10" / "1" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| fp32 | cifar10 val | 88.16 |" in card


def test_a_variant_that_loses_too_much_is_not_recorded(models: Path) -> None:
    folder = models / "cbam-cifar10" / "1"
    record(folder, classification("fp32", 88.16))
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match=r"fp16 loses 0.26 accuracy on cifar10 val \(allowed: 0.2\)"):
        record(folder, classification("fp16", 87.9))
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("changes", [{"limit": 10}, {"split": None}, {"model": "other"}, {"variant": "int8"}, {"beam_size": 5}])
def test_another_measurement_is_refused(models: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        record(models / "dnl-camvid" / "1", segmentation("fp32", 66.2) | changes)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((0.1, 0.9), "The attention improves the score."),
        ((-0.9, -0.1), "The attention lowers the score."),
        ((-0.5, 0.5), "no gain of the attention was shown"),
    ],
)
def test_a_gain_is_reported_whatever_its_sign(models: Path, bounds: tuple[float, float], text: str) -> None:
    folder = models / "dnl-camvid" / "1"
    record(folder, segmentation_gain(*bounds))
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert text in card
    assert f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}]" in card
    assert text in verdict([0.0, *bounds])


def test_the_gain_of_another_task_is_refused(models: Path) -> None:
    with pytest.raises(ExportError, match="the comparison is of segmentation models, cbam-cifar10 is not one"):
        record(models / "cbam-cifar10" / "1", segmentation_gain(0, 1))


def test_figures_of_a_video_classifier_are_in_its_card(models: Path) -> None:
    folder = models / "nonlocal-fight" / "1"
    about = {"model": "nonlocal-fight", "variant": "fp32", "split": "val", "limit": None, "seconds": 2.5, "clips": 52}
    accuracies = {
        name: {"accuracy": [77.7, 70.0, 85.0], "of_each_seed": [76.0, 78.0], "of_val": 80.0}
        for name in ("non-local", "twin", "baseline")
    }
    record(
        folder,
        {"evaluation": "video", "accuracy": 76.92, "class_accuracy": {"fight": 90.0, "noFight": None}, "confusion": [[1]], **about},
    )
    gains = {"non-local - twin": [1.5, -0.5, 3.5]}
    record(folder, {"evaluation": "video_gain", "folds": 5, "accuracies": accuracies, "gains": gains, "chosen": {"gaussian": 10}})
    encoding = {
        "codec": "h264",
        "width": 320,
        "height": 240,
        "same_class": 98.1,
        "mean_difference": 0.0123,
        "largest_difference": 0.2,
    }
    record(folder, {"evaluation": "video_skew", "encodings": [encoding], **about})
    quality = read_manifest(folder).quality
    assert [(each.metric, each.value, each.part) for each in quality] == [("accuracy", 76.92, ""), ("accuracy", 90.0, "fight")]
    assert {each.command for each in quality} == {"attnserve evaluate video --data DIR --model nonlocal-fight --split val"}
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| Non-local | 77.7 [70.0, 85.0] | 76.0 | 78.0 | 80.0 |" in card
    assert "non-local - twin: +1.50 [-0.50, +3.50]. The interval contains 0" in card
    assert "| h264 | 320 × 240 | 98.1 % | 0.0123 | 0.200 |" in card
    assert "Encoding hardly changes the answers (" in card
    assert "and 22 % in the cross-validation." in card
    for worse, text in (
        ({"same_class": 94.9}, "**Encoding changes the class of up to 5.1 % of the clips**"),
        ({"mean_difference": 0.031}, "**Encoding changes the answers**"),
    ):
        record(folder, {"evaluation": "video_skew", "encodings": [encoding, {**encoding, **worse}], **about})
        assert text in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "`attnserve evaluate video-skew --data DIR --model nonlocal-fight --split val`" in card
    assert "**It must not be used to watch, judge or report people" in card
    with pytest.raises(ExportError, match="the comparison is of video classification models, cbam-cifar10 is not one"):
        record(
            models / "cbam-cifar10" / "1",
            {"evaluation": "video_gain", "folds": 5, "accuracies": accuracies, "gains": gains, "chosen": {}},
        )
