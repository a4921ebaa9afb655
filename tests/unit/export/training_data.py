# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the layout of the real ones, for tests of trainings."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def make_cifar10(root: Path, train: int = 60, val: int = 20) -> Path:
    """Writes images of noise on a colour that depends on the class; returns ``root``."""
    folder = root / "cifar10"
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        rng = np.random.default_rng(count)
        files = []
        for index in range(count):
            pixels = rng.integers(0, 60, (32, 32, 3)) + np.array([index % 10 * 18, 180 - index % 10 * 18, 60])
            file = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=75)
            files.append(file.getvalue())
        np.savez(
            folder / f"{split}.npz",
            jpeg=np.frombuffer(b"".join(files), np.uint8),
            offsets=np.cumsum([0, *map(len, files)]),
            labels=np.arange(count, dtype=np.uint8) % 10,
            classes=np.array(CLASSES),
            names=np.array([f"{index}.jpg" for index in range(count)]),
        )
    return root
