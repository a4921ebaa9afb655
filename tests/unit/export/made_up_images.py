# SPDX-License-Identifier: Apache-2.0
"""A synthetic data set in the layout of CIFAR-10, and a recipe of a small generator, for the tests of generation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue")
RECIPE = """
task = "generation"
model_id = "small"
architecture = "sagan"
seed = 3
precision = "float32"
[data]
set = "cifar10"
deblocked = true
[model]
latent = 8
width = 8
reduction = 4
attention = true
[optimizer]
generator_rate = 0.001
discriminator_rate = 0.002
beta1 = 0.0
beta2 = 0.9
constant = 0.5
average_decay = 0.9
[schedule]
epochs = 2
batch = 8
checkpoint_seconds = 0.0
"""


def pictures(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noise around the colour of the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    pixels = rng.integers(0, 90, (count, 32, 32, 3))
    pixels[np.arange(count), :, :, labels] += 150
    return pixels.astype(np.uint8), labels


def write_images(root: Path) -> None:
    """Writes the splits train (42 images) and val (30)."""
    (root / "cifar10").mkdir()
    for seed, (split, count) in enumerate((("train", 42), ("val", 30))):
        pixels, labels = pictures(count, seed)
        files = []
        for picture in pixels:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=75)
            files.append(file.getvalue())
        np.savez(
            root / "cifar10" / f"{split}.npz",
            jpeg=np.frombuffer(b"".join(files), np.uint8),
            offsets=np.cumsum([0, *map(len, files)]),
            labels=labels.astype(np.uint8),
            classes=np.array(CLASSES),
        )
