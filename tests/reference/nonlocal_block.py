# SPDX-License-Identifier: Apache-2.0
"""The Non-local block and its disentangled form (Yin et al. 2020) for one picture, in loops over cells and channels, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = Sequence[float]
Matrix = Sequence[Vector]


@dataclass(frozen=True, slots=True)
class Weights:
    """The block's matrices, rows being outputs, with their biases; ``unary`` is None in the plain block."""

    query: Matrix
    query_bias: Vector
    key: Matrix
    key_bias: Vector
    value: Matrix
    value_bias: Vector
    unary: Vector | None
    output: Matrix
    output_bias: Vector


def block(cells: Matrix, valid: Sequence[bool], weights: Weights) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """z_i of each cell that is valid, the pairwise weights of each cell, and the unary weights (all 0 in the plain block)."""
    there = [j for j in range(len(cells)) if valid[j]]
    queries = [_affine(weights.query, weights.query_bias, x) for x in cells]
    keys = [_affine(weights.key, weights.key_bias, x) for x in cells]
    values = [_affine(weights.value, weights.value_bias, x) for x in cells]
    unary = [0.0] * len(cells)
    if weights.unary is not None:
        queries, keys = _whitened(queries, there), _whitened(keys, there)
        for j, weight in zip(there, _softmax([_dot(weights.unary, cells[j]) for j in there]), strict=True):
            unary[j] = weight
    pairwise, found = [], []
    for i, x in enumerate(cells):
        row = [0.0] * len(cells)
        scores = [_dot(queries[i], keys[j]) / math.sqrt(len(queries[i])) for j in there]
        for j, weight in zip(there, _softmax(scores), strict=True):
            row[j] = weight
        read = [sum((row[j] + unary[j]) * values[j][d] for j in there) for d in range(len(values[0]))]
        found.append([a + b for a, b in zip(x, _affine(weights.output, weights.output_bias, read), strict=True)])
        pairwise.append(row)
    return found, pairwise, unary


def _whitened(vectors: list[list[float]], there: Sequence[int]) -> list[list[float]]:
    """x - mu, mu being the mean over the cells that are valid."""
    means = [sum(vectors[j][d] for j in there) / len(there) for d in range(len(vectors[0]))]
    return [[value - mean for value, mean in zip(vector, means, strict=True)] for vector in vectors]


def _affine(matrix: Matrix, bias: Vector, x: Vector) -> list[float]:
    return [_dot(row, x) + offset for row, offset in zip(matrix, bias, strict=True)]


def _dot(a: Vector, b: Vector) -> float:
    return sum(left * right for left, right in zip(a, b, strict=True))


def _softmax(scores: Vector) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]
