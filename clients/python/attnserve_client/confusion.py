# SPDX-License-Identifier: Apache-2.0
"""Scores of classes, of pixels or of images, from a confusion matrix."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]


class Confusion:
    """Counts pairs of true and predicted class.

    Args:
        num_classes: number of classes; classes are numbered from 0.

    Attributes:
        counts: int64 (num_classes, num_classes): number of pixels or images by true class (row) and predicted class (column).
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def add(self, wanted: Labels, found: Labels, ignored: Collection[int] = ()) -> None:
        """Counts the pairs of two arrays.

        Args:
            wanted: true classes.
            found: predicted classes, of the same shape.
            ignored: true labels whose pairs are left out.

        Raises:
            ValueError: the shapes differ, or a label that is not ignored is not a class.
        """
        if wanted.shape != found.shape:
            raise ValueError(f"labels of shape {wanted.shape} for an answer of shape {found.shape}")
        is_known = ~np.isin(wanted, list(ignored))
        true, predicted, size = wanted[is_known].astype(np.int64), found[is_known].astype(np.int64), len(self.counts)
        for values, what in ((true, "label"), (predicted, "answer")):
            if values.size and not 0 <= int(values.min()) <= int(values.max()) < size:
                outside = int(values.max()) if values.max() >= size else int(values.min())
                raise ValueError(f"the {what} {outside} is not one of {size} classes")
        self.counts += np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)

    @property
    def total(self) -> int:
        """Number of pairs."""
        return int(self.counts.sum())

    def accuracy(self) -> float:
        """Returns the share of pairs whose classes are equal, in percent; NaN without pairs."""
        return 100 * float(np.trace(self.counts)) / self.total if self.total else float("nan")

    def recalls(self) -> NDArray[np.float64]:
        """Returns the share of each true class that is predicted as such, in percent; NaN for a class that is not present."""
        with np.errstate(invalid="ignore"):
            recalls: NDArray[np.float64] = 100 * np.diagonal(self.counts) / self.counts.sum(1)
        return recalls

    def ious(self) -> NDArray[np.float64]:
        """Returns the intersection over union of each class, in percent; NaN for a class that is neither present nor predicted."""
        hits = np.diagonal(self.counts)
        with np.errstate(invalid="ignore"):
            ious: NDArray[np.float64] = 100 * hits / (self.counts.sum(0) + self.counts.sum(1) - hits)
        return ious

    def mean_iou(self) -> float:
        """Returns the mean of :meth:`ious` over the classes that are present or predicted; NaN without pairs."""
        return float(np.nanmean(self.ious())) if self.total else float("nan")
