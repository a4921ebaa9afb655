# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 as JPEG files: reading, the images held back for selection, and the views of a batch."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnserve_export.training.views import SMALL, altered

Pixels = npt.NDArray[np.uint8]
_SHIFT = 4
"""Maximum shift of a training image in each direction, in pixels."""


@dataclass(frozen=True, slots=True)
class Images:
    """``pixels`` (N, 32, 32, 3), ``labels`` (N), and the class names in the order of their labels."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> Images:
        """Returns the images at ``indices``, in that order."""
        return Images(self.pixels[indices], self.labels[indices], self.classes)


def read_images(root: Path, split: str) -> Images:
    """Reads a split of CIFAR-10, train or val.

    Raises:
        FileNotFoundError: the data set is missing; the text says how to name its folder.
    """
    path = root / "cifar10" / f"{split}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: name the folder of the data sets by --data or ATTNSERVE_DATA")
    with np.load(path) as stored:
        data, offsets = stored["jpeg"].tobytes(), stored["offsets"]
        labels, classes = stored["labels"].astype(np.int64), tuple(map(str, stored["classes"]))
    spans = itertools.pairwise(offsets)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data[start:end])).convert("RGB")) for start, end in spans])
    return Images(pixels, labels, classes)


def hold_back(images: Images, count: int, seed: int = 0) -> tuple[Images, Images]:
    """Returns the training images, and ``count`` random ones for selection. With the default seed all runs have the same parts."""
    order = np.random.default_rng(seed).permutation(len(images))
    return images.take(np.sort(order[count:])), images.take(np.sort(order[:count]))


def training_views(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Shifts each image (B, 32, 32, 3) by up to 4 pixels and mirrors it at random; alters a ``share`` of them, see ``views.py``."""
    count, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="reflect")
    tops, lefts = rng.integers(0, 2 * _SHIFT + 1, (2, count))
    mirrored, changed = rng.random((2, count))
    views = np.empty_like(pixels)
    for index in range(count):
        view = padded[index, tops[index] : tops[index] + height, lefts[index] : lefts[index] + width]
        if changed[index] < share:
            view = np.asarray(altered(Image.fromarray(view), random.Random(int(rng.integers(1 << 62))), SMALL))
        views[index] = view[:, ::-1] if mirrored[index] < 0.5 else view
    return views


def changed(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    """Applies ``change`` to each image."""
    pixels = np.stack([np.asarray(change(Image.fromarray(each))) for each in images.pixels])
    return Images(pixels, images.labels, images.classes)
