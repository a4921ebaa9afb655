# SPDX-License-Identifier: Apache-2.0
"""The Non-local operation of Wang et al. 2018, equations 1 to 6, in float64, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Layer = tuple[Array, Array]
"""A matrix (outputs, inputs) and a bias (outputs)."""


def apply(layer: Layer, x: Array) -> Array:
    return np.array([sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(*layer, strict=True)])


def dot(a: Array, b: Array) -> float:
    return float(sum(v * w for v, w in zip(a, b, strict=True)))


def pairwise(kind: str, x_i: Array, x_j: Array, layers: Mapping[str, Layer], score: Array) -> float:
    """f(x_i, x_j); ``score`` is w_f, which only equation 5 reads."""
    if kind == "gaussian":
        return math.exp(dot(x_i, x_j))  # equation 2
    theta, phi = apply(layers["query"], x_i), apply(layers["key"], x_j)
    if kind == "embedded_gaussian":
        return math.exp(dot(theta, phi))  # equation 3
    if kind == "dot_product":
        return dot(theta, phi)  # equation 4
    return max(0.0, dot(score, np.concatenate((theta, phi))))  # equation 5


def weights(kind: str, x: Array, layers: Mapping[str, Layer], score: Array) -> Array:
    """f(x_i, x_j) / C(x) for all cells of (N, D): (N, N)."""
    count = len(x)
    f = np.array([[pairwise(kind, x[i], x[j], layers, score) for j in range(count)] for i in range(count)])
    for i in range(count):
        f[i] /= sum(f[i]) if kind.endswith("gaussian") else count
    return f


def block(weights: Array, x: Array, layers: Mapping[str, Layer], scale: Array, shift: Array) -> Array:
    """Equations 1 and 6 from the weights f / C: z (N, D). ``scale`` and ``shift`` are what the normalisation does to W_z y."""
    z = np.empty_like(x)
    for i in range(len(x)):
        y = sum(weights[i, j] * apply(layers["value"], x[j]) for j in range(len(x)))
        z[i] = scale * apply(layers["output"], np.asarray(y)) + shift + x[i]
    return z
