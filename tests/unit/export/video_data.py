# SPDX-License-Identifier: Apache-2.0
"""Synthetic clips in the layout of the real data set, and a small recipe, for tests of the video classifier's training."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from attnserve_export.recipe import VideoRecipe, load_recipe

SMALL = {
    "model.width": 8,
    "model.bottleneck": 4,
    "data.views": 3,
    "data.inner_folds": 2,
    "schedule.epochs": 3,
    "schedule.batch": 4,
    "schedule.checkpoint_seconds": 0.0,
    "optimizer.warmup_epochs": 1,
    "optimizer.peak_learning_rate": 0.01,
    "adaptation": None,
}
ADAPTATION = {"epochs": 4, "peak_learning_rate": 0.01, "consistency": 1.0, "directions": 2}
"""Encodes clips, which takes PyAV."""


def strip(label: int, seed: int) -> bytes:
    """A clip as one JPEG: a square that does not move, or that jumps."""
    rng = np.random.default_rng(seed)
    pixels = np.full((32, 112, 112, 3), rng.integers(40, 200, 3), np.uint8)
    places = rng.integers(8, 72, (32, 2)) if label else np.tile(rng.integers(8, 72, 2), (32, 1))
    for frame, (top, left) in zip(pixels, places, strict=True):
        frame[top : top + 32, left : left + 32] = 255
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(-1, 112, 3)).save(file, "JPEG", quality=80)
    return file.getvalue()


def make_fight_video(root: Path) -> Path:
    """12 clips of 6 sources to train on, 4 clips of 2 sources as val; returns ``root``."""
    folder = root / "fight_video"
    folder.mkdir(parents=True)
    for split, numbers in (("train", range(12)), ("val", range(12, 16))):
        facts = {}
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for number in numbers:
                content, member = strip(number % 2, number), tarfile.TarInfo(f"clip-{number:02d}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                facts[f"clip-{number:02d}"] = {"label": number % 2, "source": f"s{number // 2:02d}"}
        (folder / f"{split}.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


def recipe(**changes: object) -> VideoRecipe:
    found = load_recipe("nonlocal-fight", SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    assert isinstance(found, VideoRecipe)
    return found
