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
    for name in ("dnl-camvid", "cbam-cifar10"):
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
