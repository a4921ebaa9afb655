# SPDX-License-Identifier: Apache-2.0
"""CamVid: frames of drives with a class for each pixel, the frames held back for selection, and training views."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from attnserve_export.training.views import altered

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height in pixels."""

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
VOID = len(CLASSES)
"""Label of pixels that losses and scores ignore."""


@dataclass(frozen=True, slots=True)
class Frames:
    """``names`` in order, ``pixels`` (N, H, W, 3) and ``labels`` (N, H, W)."""

    names: tuple[str, ...]
    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: npt.NDArray[np.int64]) -> Frames:
        """Returns the frames at ``indices``, in that order."""
        return Frames(tuple(self.names[index] for index in indices), self.pixels[indices], self.labels[indices])


def read_frames(root: Path, split: str) -> Frames:
    """Reads a split of CamVid, train or val, sorted by the frames' names: by drive, then by time.

    Raises:
        FileNotFoundError: the data set is missing; the text says how to name its folder.
        ValueError: a label is not in the list of classes.
    """
    path = root / "camvid" / f"{split}.tar"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: name the folder of the data sets by --data or ATTNSERVE_DATA")
    found: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                found[member.name] = file.read()
    names = sorted(Path(name).stem for name in found if name.startswith("images/"))
    pixels = [np.asarray(Image.open(io.BytesIO(found[f"images/{name}.jpg"])).convert("RGB")) for name in names]
    labels = np.stack([np.asarray(Image.open(io.BytesIO(found[f"labels/{name}.png"]))) for name in names])
    if labels.max() > VOID:
        raise ValueError(f"{path} has the label {labels.max()}, but the highest label is {VOID}")
    return Frames(tuple(names), np.stack(pixels), labels)


def hold_back(names: Sequence[str], drive: str, count: int, gap: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the indices of training frames, and of a drive's last ``count`` for selection; ``gap`` frames before are unused.

    Raises:
        ValueError: the drive has too few frames.
    """
    of_drive = [index for index, name in enumerate(names) if name.startswith(f"{drive}_")]
    if len(of_drive) < count + gap:
        raise ValueError(f"drive {drive} has {len(of_drive)} frames: {count} cannot be held back after a gap of {gap}")
    left_out = set(of_drive[len(of_drive) - count - gap :])
    trained = [index for index in range(len(names)) if index not in left_out]
    return np.array(trained, np.int64), np.array(of_drive[len(of_drive) - count :], np.int64)


@dataclass(frozen=True, slots=True)
class Cut:
    """Settings of the crop of a view from a frame."""

    size: Size
    scale: tuple[float, float]
    """Limits of the factor by which the frame is enlarged first; log-uniform."""
    altered: float
    """Probability that the view is altered, see ``views.py``."""

    def view(self, pixels: Pixels, labels: Labels, rng: random.Random) -> tuple[Pixels, Labels]:
        """Returns a view (h, w, 3) and its labels (h, w): enlarged, cropped at random, mirrored or not, altered or not.

        Outside the frame the view is the frame's mirror image, with the label void: padding of one colour would be a tenth of the
        batch normalisation's input.
        """
        height, width = labels.shape
        scale = self.scale[0] * (self.scale[1] / self.scale[0]) ** rng.random()
        sides = [min(side / scale, whole) for side, whole in zip(self.size, (width, height), strict=True)]
        left, top = rng.uniform(0, width - sides[0]), rng.uniform(0, height - sides[1])
        box = left, top, left + sides[0], top + sides[1]
        target = tuple(max(1, min(round(side * scale), most)) for side, most in zip(sides, self.size, strict=True))
        picture = Image.fromarray(pixels).resize((target[0], target[1]), Image.Resampling.BILINEAR, box)
        classes = Image.fromarray(labels).resize((target[0], target[1]), Image.Resampling.NEAREST, box)
        if rng.random() < 0.5:
            picture, classes = ImageOps.mirror(picture), ImageOps.mirror(classes)
        if rng.random() < self.altered:
            picture = altered(picture, rng)
        free = [whole - side for whole, side in zip(self.size, target, strict=True)]
        before = [rng.randint(0, each) for each in free]
        beyond = [(first, each - first) for first, each in zip(before, free, strict=True)][::-1]
        view = np.pad(np.asarray(picture), [*beyond, (0, 0)], mode="symmetric")
        return view, np.pad(np.asarray(classes), beyond, constant_values=VOID)


def shares(labels: Labels) -> npt.NDArray[np.float64]:
    """Returns the share of each class in the pixels that are not void, (classes)."""
    counts = np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID]
    found: npt.NDArray[np.float64] = counts / counts.sum()
    return found
