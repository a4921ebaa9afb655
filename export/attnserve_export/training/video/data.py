# SPDX-License-Identifier: Apache-2.0
"""Fight clips: reading, sampling of frames, and splits of the data that share no source."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnserve_export.models.nonlocal_video import FRAME_SIZE, FRAMES

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
CLASSES = ("noFight", "fight")
_FOLD_DRAWS = 1000


def sample_frames(count: int, wanted: int = FRAMES) -> list[int]:
    """Returns the indices of ``wanted`` of ``count`` frames, evenly over the clip: ``round(linspace(0, count - 1, wanted))``.

    The server must sample the same frames. Frames of a short clip are repeated.

    Raises:
        ValueError: there is no frame.
    """
    if count < 1:
        raise ValueError("a clip must have at least one frame")
    found: list[int] = np.round(np.linspace(0, count - 1, wanted)).astype(int).tolist()
    return found


@dataclass(frozen=True, slots=True)
class Clips:
    """``pixels`` (N, 32, 112, 112, 3), ``labels`` (N) as indices of :data:`CLASSES`, source videos (N) and names (N)."""

    pixels: Pixels
    labels: Indices
    sources: npt.NDArray[np.str_]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_clips(root: Path, split: str) -> Clips:
    """Reads a split, train or val, in the order of its archive.

    Raises:
        FileNotFoundError: the data set is missing; the text says how to name its folder.
    """
    folder = root / "fight_video"
    about, archive = folder / f"{split}.json", folder / f"{split}.tar"
    for path in (about, archive):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: name the folder of the data sets by --data or ATTNSERVE_DATA")
    facts = json.loads(about.read_text(encoding="utf-8"))
    pixels: list[Pixels] = []
    names: list[str] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                strip = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                pixels.append(strip.reshape(-1, FRAME_SIZE, FRAME_SIZE, 3))
                names.append(Path(member.name).stem)
    labels = np.array([facts[name]["label"] for name in names], np.int64)
    sources = np.array([facts[name]["source"] for name in names])
    return Clips(np.stack(pixels), labels, sources, tuple(names))


def joined(first: Clips, second: Clips) -> Clips:
    """Concatenates the clips of both, in this order."""
    return Clips(
        np.concatenate((first.pixels, second.pixels)),
        np.concatenate((first.labels, second.labels)),
        np.concatenate((first.sources, second.sources)),
        first.names + second.names,
    )


def grouped_folds(labels: Indices, sources: npt.NDArray[np.str_], count: int, seed: int) -> Indices:
    """Returns the fold of each example, (N), from 0: all clips of a source are in one fold.

    Sources are assigned to folds at random. Of 1,000 assignments the one is used whose folds are most equal in their numbers of
    clips of each class.

    Raises:
        ValueError: there are fewer sources than folds.
    """
    names, source_of = np.unique(sources, return_inverse=True)
    if len(names) < count:
        raise ValueError(f"{len(names)} sources do not make {count} folds")
    rng, per_class = np.random.default_rng([seed, count]), np.zeros((len(names), len(CLASSES)))
    np.add.at(per_class, (source_of, labels), 1)
    best, least = np.zeros(len(names), np.int64), np.inf
    for _ in range(_FOLD_DRAWS):
        folds = rng.permutation(np.arange(len(names)) % count)
        sums = np.stack([per_class[folds == fold].sum(0) for fold in range(count)])
        spread = float(sums.var(0).sum())
        if spread < least:
            best, least = folds, spread
    return best[source_of]
