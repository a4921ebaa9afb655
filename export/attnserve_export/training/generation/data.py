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


def deblocked_once(pixels: Pixels, folder: Path) -> Pixels:
    """Calls :func:`deblocked` once: the result is kept in a file of ``folder``, named after its inputs."""
    key = hashlib.sha256(repr((pixels.shape, _GRID, _QUALITY, _DISPLACEMENTS)).encode() + pixels.tobytes()).hexdigest()
    path = folder / f"deblocked-{key[:16]}.npy"
    with locked(folder / "deblocked.lock", waits=True):
        if path.exists():
            kept: Pixels = np.load(path)
            return kept
        clean, temporary = deblocked(pixels), path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, clean)
        temporary.replace(path)
        return clean


def deblocked(pixels: Pixels) -> Pixels:
    """Removes the edges of the JPEG blocks from images (N, 32, 32, 3); the shape is kept."""
    clean = np.empty_like(pixels)
    for index, image in enumerate(pixels):
        clean[index] = _deblocked(image)
    return clean


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
