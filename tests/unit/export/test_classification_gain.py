# SPDX-License-Identifier: Apache-2.0
"""The gain of CBAM over its twin, from synthetic runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attnserve_export.recipe import RecipeError
from attnserve_export.training.classification.gain import EPOCHS, SEEDS, gain
from attnserve_export.training.start import folder_name

IMAGES = 400


def make_runs(runs: Path, shares: dict[bool, float]) -> None:
    """Runs of all seeds, with and without attention, that classify a random share of the images correctly."""
    for seed in SEEDS:
        for attention, share in shares.items():
            folder = runs / folder_name("cbam-cifar10", {"schedule.epochs": EPOCHS, "seed": seed, "model.attention": attention})
            folder.mkdir(parents=True)
            right = np.random.default_rng([seed, attention]).random(IMAGES) < share
            torch.save(torch.from_numpy(right).float(), folder / "val.pt")
            (folder / "summary.json").write_text(json.dumps({"epochs": EPOCHS}), encoding="utf-8")


def test_a_gain_is_seen_and_its_interval_leaves_out_zero(tmp_path: Path) -> None:
    make_runs(tmp_path, {True: 0.9, False: 0.7})
    found = gain(tmp_path)
    mean, low, high = found["gain"]
    assert low < mean < high
    assert low > 0
    assert mean == pytest.approx(20, abs=5)
    pairs = zip(found["val_accuracy"].values(), found["val_accuracy_of_twin"].values(), strict=True)
    assert mean == pytest.approx(np.mean([ours - twin for ours, twin in pairs]), abs=0.02)


def test_no_gain_is_reported_as_none(tmp_path: Path) -> None:
    make_runs(tmp_path, {True: 0.8, False: 0.8})
    _, low, high = gain(tmp_path)["gain"]
    assert low < 0 < high


def test_a_run_that_is_missing_is_named(tmp_path: Path) -> None:
    make_runs(tmp_path, {True: 0.9})
    with pytest.raises(RecipeError, match=r"attention=false.*is not finished"):
        gain(tmp_path)
