# SPDX-License-Identifier: Apache-2.0
"""The baseline of the video classifier: logistic regression on statistics of frame differences, in the same folds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attnserve_export.training.video.data import Clips, Indices, Pixels, grouped_folds

Array = npt.NDArray[np.float64]
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Candidate weights of the squared norm; an inner cross-validation selects one."""
_STEPS = 50
_CLOSE_ENOUGH = 1e-9


def difference_statistics(clip: Pixels) -> Array:
    """Returns statistics of a clip (T, H, W, 3): the mean, deviation, 90th and 99th percentile of the absolute change of grey
    between frames; of each its mean, deviation and maximum over time; of these 12 values log(1 + x).
    """
    change = np.abs(np.diff(clip.astype(np.float64).mean(-1), axis=0)).reshape(len(clip) - 1, -1)
    of_frame = np.stack((change.mean(1), change.std(1), *np.percentile(change, (90, 99), axis=1)))  # (4, T - 1)
    found: Array = np.log1p(np.concatenate((of_frame.mean(1), of_frame.std(1), of_frame.max(1))))
    return found


def logistic_regression(x: Array, labels: Indices, penalty: float) -> Callable[[Array], Array]:
    """Returns the function from statistics (M, D) to margins (M) that minimises the mean log loss plus ``penalty`` / 2 times the
    squared norm of its weights; statistics are standardised by those of ``x`` (N, D). By Newton's method.
    """
    mean, deviation = x.mean(0), x.std(0) + 1e-9

    def standardised(rows: Array) -> Array:
        return np.concatenate(((rows - mean) / deviation, np.ones((len(rows), 1))), 1)

    inputs, ridge = standardised(x), np.diag([penalty] * x.shape[1] + [0.0])
    weights = np.zeros(inputs.shape[1])
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (share - labels) / len(x) + ridge @ weights
        curvature = (inputs * (share * (1 - share))[:, None]).T @ inputs / len(x) + ridge + 1e-9 * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < _CLOSE_ENOUGH:
            break
    return lambda rows: standardised(rows) @ weights


def chosen_penalty(x: Array, clips: Clips, trained: Indices, inner_folds: int, seed: int) -> float:
    """Returns the penalty with the lowest log loss in an inner cross-validation of the training clips."""
    inner = grouped_folds(clips.labels[trained], clips.sources[trained], inner_folds, seed)

    def loss(penalty: float) -> float:
        total = 0.0
        for fold in range(inner_folds):
            kept, held = trained[inner != fold], trained[inner == fold]
            margins = logistic_regression(x[kept], clips.labels[kept], penalty)(x[held])
            total += float(np.logaddexp(0, np.where(clips.labels[held] == 1, -margins, margins)).sum())
        return total

    return min(PENALTIES, key=loss)


def baseline_margins(clips: Clips, folds: int, inner_folds: int, seed: int) -> Array:
    """Returns the margins of fight over noFight of each clip (N), from models trained on the other folds."""
    x = np.stack([difference_statistics(clip) for clip in clips.pixels])
    of_clip, found = grouped_folds(clips.labels, clips.sources, folds, seed), np.empty(len(clips))
    for fold in range(folds):
        trained, tested = np.flatnonzero(of_clip != fold), np.flatnonzero(of_clip == fold)
        penalty = chosen_penalty(x, clips, trained, inner_folds, seed)
        found[tested] = logistic_regression(x[trained], clips.labels[trained], penalty)(x[tested])
    return found
