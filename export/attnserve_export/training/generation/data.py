# SPDX-License-Identifier: Apache-2.0
"""The training images of a generator, without JPEG block artefacts.

The images of the data set are JPEGs of quality 75 with the same block positions. A discriminator sees the edges of the blocks,
and a generator learns to draw them. Shifting the images would only spread the edges. So each image is compressed again at
several offsets of the grid, shifted back, and averaged (re-application of JPEG, Nosratinia 2001): this removes the block edges
and keeps the edges of the image.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnserve_export.training.classification.data import Pixels
from attnserve_export.training.files import locked

_GRID = 16
"""Size of the blocks whose colour is stored at half the resolution, in pixels."""
_QUALITY = 75
_DISPLACEMENTS = ((4, 4), (12, 4), (4, 12), (12, 12), (8, 0), (0, 8), (2, 10), (10, 2))
"""Offsets of the grid, in rows and columns."""


def deblocked_once(pixels: Pixels, folder: Path, processes: int = 1) -> Pixels:
    """The same as :func:`deblocked`, computed once: the result is kept in a file of ``folder``, named after what it depends on."""
    key = hashlib.sha256(repr((pixels.shape, _GRID, _QUALITY, _DISPLACEMENTS)).encode() + pixels.tobytes()).hexdigest()
    path = folder / f"deblocked-{key[:16]}.npy"
    with locked(folder / "deblocked.lock", waits=True):
        if path.exists():
            kept: Pixels = np.load(path)
            return kept
        clean, temporary = deblocked(pixels, processes), path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, clean)
        temporary.replace(path)
        return clean


def deblocked(pixels: Pixels, processes: int = 1) -> Pixels:
    """Images (N, 32, 32, 3) without the edges of their JPEG blocks, of the same shape; computed by so many processes.

    They are started anew: a forked process can wait for ever for a lock that another thread of the first one held.
    """
    if processes == 1:
        return np.stack([_deblocked(image) for image in pixels])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return np.concatenate(pool.map(deblocked, np.array_split(pixels, min(len(pixels), 4 * processes))))


def _deblocked(image: Pixels) -> Pixels:
    height, width, _ = image.shape
    padded = np.pad(image, ((_GRID, 0), (_GRID, 0), (0, 0)), mode="reflect")
    total = np.zeros(image.shape, np.float32)
    for down, right in _DISPLACEMENTS:
        file = io.BytesIO()
        Image.fromarray(padded[_GRID - down :, _GRID - right :]).save(file, "JPEG", quality=_QUALITY)
        total += np.asarray(Image.open(file))[down : down + height, right : right + width]
    return np.rint(total / len(_DISPLACEMENTS)).astype(np.uint8)


def block_edges(pixels: Pixels) -> float:
    """Returns the ratio of steps across the edges of 8 × 8 blocks to steps two pixels beside them; 1 means no artefacts."""
    values = pixels.astype(np.float32)
    steps: npt.NDArray[np.float32] = np.abs(np.diff(values, axis=2)).mean((0, 1, 3))  # (31,) between columns
    edges = np.arange(7, 31, 8)
    return float(steps[edges].mean() / ((steps[edges - 2] + steps[edges + 2]) / 2).mean())
