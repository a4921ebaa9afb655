# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices and the mean intersection over union."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_export.training.segmentation.data import VOID, Labels

Confusion = npt.NDArray[np.int64]
"""Number of pixels by true class (second to last axis) and predicted class (last axis)."""


def confusion(found: npt.NDArray[Any], wanted: Labels) -> Confusion:
    """Returns the matrix of one image, (classes, classes), from class maps of equal shape; ignores void pixels of ``wanted``."""
    is_known = wanted != VOID
    pairs = wanted[is_known].astype(np.int64) * VOID + found[is_known]
    return np.bincount(pairs, minlength=VOID * VOID).reshape(VOID, VOID)


def class_ious(matrix: Confusion) -> npt.NDArray[np.float64]:
    """Returns the intersection over union of each class, in percent; NaN for a class that is neither present nor predicted."""
    hits = np.diagonal(matrix)
    unions = matrix.sum(0) + matrix.sum(1) - hits
    with np.errstate(invalid="ignore"):
        ious: npt.NDArray[np.float64] = 100 * hits / unions
    return ious


def mean_iou(matrices: Confusion) -> float:
    """Returns the mean IoU in percent over all images, (images, classes, classes), of the classes present or predicted."""
    return float(np.nanmean(class_ious(matrices.sum(0))))
