# SPDX-License-Identifier: Apache-2.0
"""The frozen trunk's features of each clip, computed once by ONNX Runtime: of the clip, its mirror image, altered views, and the
clip through video files.

A view of a split is one file of 16-bit numbers, clips × T' × H' × W' × channels. All runs share the files, since views do not
depend on the recipe's seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image

from attnserve_export.layers.efficientnet import imagenet_weights
from attnserve_export.models.nonlocal_video import CHANNELS, FRAME_SIZE, FRAMES, GAIN, TIME_POOL, MotionTrunk, grid, trunk_weights
from attnserve_export.training.files import locked
from attnserve_export.training.trunk_session import fingerprint, trunk_session
from attnserve_export.training.video.data import Clips, Pixels, sample_frames
from attnserve_export.training.video.encoded import Encoding, through_file
from attnserve_export.training.views import PHOTOS, altered

Features = npt.NDArray[np.float16]
_LEAST_SIDE = 0.75
"""Minimum side of an altered view's crop, as a share of the frame's side."""
_LEAST_FRAMES = 24
"""Minimum number of consecutive frames that an altered view shows."""


def view_of(clip: Pixels, view: int, seed: str) -> Pixels:
    """Returns a view of the same shape (32, 112, 112, 3): 0 is the clip, 1 its mirror image; others are altered by the seed.

    An altered view shows a section of the clip and a crop of its frames, mirrored or not, forwards or backwards in time. The
    change by ``views.py`` is the same for all frames, so that it adds no motion.
    """
    if view == 0:
        return clip
    if view == 1:
        return np.ascontiguousarray(clip[:, :, ::-1])
    rng = random.Random(f"{seed}/{view}")
    length = rng.randint(min(_LEAST_FRAMES, len(clip)), len(clip))
    first = rng.randint(0, len(clip) - length)
    stretch = clip[first : first + length][sample_frames(length, len(clip))]
    side = rng.uniform(_LEAST_SIDE, 1.0) * FRAME_SIZE
    left, top = (rng.uniform(0, FRAME_SIZE - side) for _ in range(2))
    of_frames, is_mirrored, is_reversed = rng.randrange(1 << 62), rng.random() < 0.5, rng.random() < 0.5
    size, box = (FRAME_SIZE, FRAME_SIZE), (left, top, left + side, top + side)
    frames = [
        np.asarray(altered(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box), random.Random(of_frames)))
        for frame in stretch
    ]
    found = np.stack(frames[::-1] if is_reversed else frames)
    return np.ascontiguousarray(found[:, :, ::-1]) if is_mirrored else found


def pretrained_trunk() -> MotionTrunk:
    """Builds the trunk with ImageNet weights.

    Raises:
        FileNotFoundError: the package with the weights is not installed.
    """
    trunk = MotionTrunk()
    trunk.load_state_dict(trunk_weights(imagenet_weights()))
    return trunk.eval()


class FeatureCache:
    """Views and encoded forms of a split's clips, in files of a folder that all runs share; each is computed at its first use."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._say, self._trunk = say, pretrained_trunk()
        settings = GAIN, TIME_POOL, FRAMES, FRAME_SIZE, _LEAST_SIDE, _LEAST_FRAMES, PHOTOS
        self._folder = folder / fingerprint(self._trunk, *settings)
        self._session: onnxruntime.InferenceSession | None = None

    def view(self, split: str, clips: Clips, view: int) -> Features:
        """Returns a view of all clips, (clips, T', H', W', channels).

        Raises:
            ValueError: the existing file has another shape.
        """
        return self._cached(f"{split}-{view}", clips, lambda clip, name: view_of(clip, view, f"{split}/{name}"))

    def encoded(self, split: str, clips: Clips, encoding: Encoding) -> Features:
        """Returns the features of all clips through a video file, (clips, T', H', W', channels).

        Raises:
            ValueError: the existing file has another shape.
            RecipeError: PyAV is not installed.
        """
        return self._cached(f"{split}-{encoding.name}", clips, lambda clip, _: through_file(clip, encoding))

    def _cached(self, name: str, clips: Clips, changed: Callable[[Pixels, str], Pixels]) -> Features:
        path = self._folder / f"{name}.npy"
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / "views.lock", waits=True):
            if not path.exists():
                self._say(f"computing features: {name}")
                temporary = path.with_suffix(".tmp.npy")
                np.save(temporary, self._computed(clips, changed))
                temporary.replace(path)
        found: Features = np.load(path)
        if found.shape != (len(clips), *grid(), CHANNELS):
            raise ValueError(f"{path} is of other clips or of another trunk: remove {self._folder}")
        return found

    def _computed(self, clips: Clips, changed: Callable[[Pixels, str], Pixels]) -> Features:
        if self._session is None:
            example = torch.zeros(1, FRAMES, FRAME_SIZE, FRAME_SIZE, 3, dtype=torch.uint8)
            self._session = trunk_session(self._trunk, example, "clip")
        found: list[npt.NDArray[np.float32]] = []
        for name, clip in zip(clips.names, clips.pixels, strict=True):
            found += cast(list[npt.NDArray[np.float32]], self._session.run(None, {"clip": changed(clip, name)[None]}))
        return np.concatenate(found).astype(np.float16)
