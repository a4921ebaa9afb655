# SPDX-License-Identifier: Apache-2.0
"""The trunk's features of views of the training frames, computed once and shared by all runs: by ONNX Runtime on a CPU,
by PyTorch on a GPU.

A view is one file of 16-bit numbers for each level, frames × channels × rows × columns, and one of its labels. Existing views
are not computed again. Their random numbers do not depend on a recipe's seed, so that paired runs share them.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from attnserve_export.models.disentangled_nonlocal import LEVEL_STRIDES, DisentangledNonLocal
from attnserve_export.training.files import locked
from attnserve_export.training.segmentation.data import Cut, Frames, Labels
from attnserve_export.training.trunk_session import fingerprint, trunk_session
from attnserve_export.training.views import PHOTOS

Features = npt.NDArray[np.float16]
_BATCH = 4
_CPU = torch.device("cpu")


class _Trunk(nn.Module):
    def __init__(self, model: DisentangledNonLocal) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model.features(image, torch.ones(image.shape[:3], dtype=torch.bool, device=image.device))


@dataclass(frozen=True, slots=True)
class View:
    """One view of all frames: ``levels`` at strides 4, 8 and 16, each (N, C, h, w), and ``labels`` (N, H, W)."""

    levels: list[Features]
    labels: Labels


class FeatureCache:
    """Views of frames; each is computed at its first use.

    Args:
        model: its trunk has the weights that all runs share.
        frames: all of one split.
        cut: for all views but the first two; its size is that of the frames, its scale at least 1.
        folder: parent of the cache's folder, whose name depends on the frames and on ``cut``.
        device: computes the features.
    """

    def __init__(self, model: DisentangledNonLocal, frames: Frames, cut: Cut, folder: Path, device: torch.device = _CPU) -> None:
        self._model, self._frames, self._cut, self._device = model, frames, cut, device
        first = hashlib.sha256(frames.pixels[:1].tobytes()).hexdigest()
        self._folder = folder / fingerprint(model.encoder, frames.names, first, cut, PHOTOS)

    def view(self, number: int) -> View:
        """Returns a view, mapped from its files: 0 is the frames, 1 their mirror images, others are random crops."""
        paths = [self._folder / f"{number}-{name}.npy" for name in (*LEVEL_STRIDES, "labels")]
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / "views.lock", waits=True):
            if not paths[-1].exists():
                for path, content in zip(paths, self._computed(number), strict=True):  # the labels are last
                    temporary = path.with_suffix(".tmp.npy")
                    np.save(temporary, content)
                    temporary.replace(path)
        *levels, labels = (np.load(path, mmap_mode="r") for path in paths)
        return View(levels, labels)

    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return trunk_session(_Trunk(self._model), torch.from_numpy(self._frames.pixels[:1].repeat(2, 0)))

    @functools.cached_property
    def _trunk(self) -> _Trunk:
        return _Trunk(copy.deepcopy(self._model)).eval().to(self._device)

    def _outputs(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        """Of the trunk for pictures (B, H, W, 3), in 32 bits."""
        if self._device.type == "cpu":
            return [np.asarray(each) for each in self._session.run(None, {"image": pixels})]
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
            return [each.cpu().numpy() for each in self._trunk(torch.from_numpy(pixels).to(self._device))]

    def _computed(self, number: int) -> list[npt.NDArray[Any]]:
        levels: list[list[npt.NDArray[Any]]] = [[] for _ in LEVEL_STRIDES]
        labels: list[Labels] = []
        for start in range(0, len(self._frames), _BATCH):
            views = [self._view_of(index, number) for index in range(start, min(start + _BATCH, len(self._frames)))]
            for level, found in zip(levels, self._outputs(np.stack([each[0] for each in views])), strict=True):
                level.append(np.asarray(found, np.float16))
            labels += [each[1] for each in views]
        return [*(np.concatenate(level) for level in levels), np.stack(labels)]

    def _view_of(self, index: int, number: int) -> tuple[npt.NDArray[np.uint8], Labels]:
        pixels, labels = self._frames.pixels[index], self._frames.labels[index]
        if number < 2:
            step = -1 if number else 1
            return pixels[:, ::step], labels[:, ::step]
        return self._cut.view(pixels, labels, random.Random(f"{self._frames.names[index]}/{number}"))
