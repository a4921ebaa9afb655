# SPDX-License-Identifier: Apache-2.0
"""The trunk's features of each photo, computed once: of the photo, its mirror image, and random alterations.

ONNX Runtime runs the trunk, since on a CPU it takes a fifth of PyTorch's time. A view is one file of 16-bit numbers, photos ×
cells × channels; an existing view is not computed again.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image, ImageOps
from rich.progress import Progress
from torch import Tensor, nn

from attnserve_export.layers.efficientnet import IMAGE_SIZE, WIDTH
from attnserve_export.models.show_attend_tell import NUM_CELLS, ShowAttendTell
from attnserve_export.training.captions.data import read_pixels
from attnserve_export.training.trunk_session import trunk_session
from attnserve_export.training.views import altered

Features = npt.NDArray[np.float16]
_BATCH = 16
_LEAST_AREA = 0.5
_MOST_STRETCH = 1.3


class _Trunk(nn.Module):
    def __init__(self, model: ShowAttendTell) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.features(image)


def view_of(photo: Image.Image, view: int, seed: str) -> Image.Image:
    """Returns a view of the trunk's size: 0 is the photo, 1 its mirror image; others are random crops, altered by the seed."""
    if view == 0:
        return _resized(photo)
    if view == 1:
        return ImageOps.mirror(_resized(photo))
    rng = random.Random(f"{seed}/{view}")
    area, stretch = rng.uniform(_LEAST_AREA, 1.0), rng.uniform(1 / _MOST_STRETCH, _MOST_STRETCH)
    width, height = (min(1.0, side) for side in ((area * stretch) ** 0.5, (area / stretch) ** 0.5))
    left, top = rng.uniform(0, 1 - width) * photo.width, rng.uniform(0, 1 - height) * photo.height
    box = left, top, left + width * photo.width, top + height * photo.height
    size = (IMAGE_SIZE, IMAGE_SIZE)
    cut = altered(photo.resize(size, Image.Resampling.BICUBIC, box), rng)
    return ImageOps.mirror(cut) if rng.random() < 0.5 else cut


def _resized(photo: Image.Image) -> Image.Image:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return photo if photo.size == size else photo.resize(size, Image.Resampling.BICUBIC)


class FeatureCache:
    """Views of a split; each is computed at its first use.

    Args:
        model: in evaluation mode.
        root: folder of the data sets.
        folder: folder of the cache.
        seed: seed of the alterations.
    """

    def __init__(self, model: ShowAttendTell, root: Path, folder: Path, seed: int) -> None:
        self._model, self._root, self._folder, self._seed = model, root, folder, seed

    def view(self, split: str, count: int, view: int, progress: Progress) -> Features:
        """Returns a view of a split of ``count`` photos, (photos, cells, channels), mapped from its file."""
        path = self._folder / f"{split}-{view}.npy"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, self._computed(split, count, view, progress))
            temporary.replace(path)
        loaded: Features = np.load(path, mmap_mode="r")
        return loaded

    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return trunk_session(_Trunk(self._model), torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8))

    def _computed(self, split: str, count: int, view: int, progress: Progress) -> Features:
        task = progress.add_task(f"features of {split}, view {view}", total=count)
        features, done = np.empty((count, NUM_CELLS, WIDTH), np.float16), 0
        photos = (view_of(photo, view, f"{self._seed}/{index}") for index, photo in enumerate(read_pixels(self._root, split)))
        for batch in _batches(photos):
            found = cast(list[npt.NDArray[np.float32]], self._session.run(None, {"image": np.stack(batch)}))[0]
            features[done : done + len(batch)] = found
            done += len(batch)
            progress.update(task, completed=done)
        progress.remove_task(task)
        return features


def _batches(photos: Iterator[Image.Image]) -> Iterator[list[npt.NDArray[Any]]]:
    batch: list[npt.NDArray[Any]] = []
    for photo in photos:
        batch.append(np.asarray(photo))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
