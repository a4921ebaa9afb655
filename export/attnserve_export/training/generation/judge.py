# SPDX-License-Identifier: Apache-2.0
"""The judge of a generator's samples, a classifier that is not used in its training, and figures from its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attnserve_export.models.cbam import Cbam, CbamConfig
from attnserve_export.training.classification.data import Pixels

_BATCH = 500
Features = npt.NDArray[np.float64]
"""Features of N images, (N, F): the inputs of the judge's output layer, 64 for ResNet-20."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The judge's output for N images: classes (N), and features (N, F)."""

    found: npt.NDArray[np.int64]
    features: Features


class Judge:
    """A trained classifier.

    Args:
        path: ``best.pt`` of its run.
        config: its sizes.
    """

    def __init__(self, path: Path, config: CbamConfig) -> None:
        self._model = Cbam(config)
        self._model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        self._model.eval()
        self._features: list[Tensor] = []
        self._model.output.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self._features.append(inputs[0])

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Judged:
        """Judges images (N, 32, 32, 3)."""
        self._features.clear()
        logits = [self._model(torch.from_numpy(pixels[start : start + _BATCH]))[0] for start in range(0, len(pixels), _BATCH)]
        return Judged(torch.cat(logits).argmax(-1).numpy(), torch.cat(self._features).double().numpy())


def frechet_distance(some: Features, others: Features) -> float:
    """|m - m'|² + tr(C + C' - 2 (C C')^½) of two sets of features (N, F), (M, F) (Heusel et al. 2017, equation 6)."""
    means, covariances = [each.mean(0) for each in (some, others)], [np.cov(each, rowvar=False) for each in (some, others)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    mixed = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    return float(np.square(means[0] - means[1]).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * mixed)


def variance_within(features: Features, labels: npt.NDArray[np.int64]) -> float:
    """The variance of the features about the mean of their class, summed over the features; the mean over the classes."""
    return float(np.mean([features[labels == label].var(0).sum() for label in np.unique(labels)]))


def nearest(pixels: Pixels, others: Pixels) -> npt.NDArray[np.float32]:
    """Returns each image's distance (N, 32, 32, 3) to the nearest of others, mirrored or not: root mean square, in grey levels."""
    other = others.reshape(len(others), -1)
    norms = np.concatenate(
        [np.square(part.astype(np.float32)).sum(1) for part in np.array_split(other, max(1, len(other) // 1000))]
    )
    found = np.full(len(pixels), np.inf, np.float32)
    for views in (pixels, pixels[:, :, ::-1]):
        flat = np.ascontiguousarray(views).reshape(len(pixels), -1).astype(np.float32)
        for start in range(0, len(other), 1000):
            squares = norms[start : start + 1000] - 2 * flat @ other[start : start + 1000].astype(np.float32).T
            np.minimum(found, squares.min(1) + np.square(flat).sum(1), out=found)
    return np.sqrt(found.clip(0) / other.shape[1])
