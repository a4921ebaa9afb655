# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices and the mean intersection over union."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_export.training.segmentation.data import VOID, Labels

Confusion = npt.NDArray[np.int64]
"""Pixels by true class (second to last axis) and by found class (last axis)."""


def confusion(found: npt.NDArray[Any], wanted: Labels) -> Confusion:
    """Of one picture, (classes, classes), from class maps of the same shape. Void pixels of ``wanted`` are left out."""
    is_known = wanted != VOID
    pairs = wanted[is_known].astype(np.int64) * VOID + found[is_known]
    return np.bincount(pairs, minlength=VOID * VOID).reshape(VOID, VOID)


def class_ious(matrix: Confusion) -> npt.NDArray[np.float64]:
    """Intersection over union of each class, in percent; not a number for a class that is neither there nor found."""
    hits = np.diagonal(matrix)
    unions = matrix.sum(0) + matrix.sum(1) - hits
    with np.errstate(invalid="ignore"):
        ious: npt.NDArray[np.float64] = 100 * hits / unions
    return ious


def mean_iou(matrices: Confusion) -> float:
    """In percent, of the pictures together, (pictures, classes, classes); classes that are neither there nor found are left out."""
    return float(np.nanmean(class_ious(matrices.sum(0))))
