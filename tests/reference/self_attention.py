# SPDX-License-Identifier: Apache-2.0
"""SAGAN's self-attention, the hinge loss and the operations around them, in loops over positions and channels, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
Matrix = Sequence[Vector]


def self_attention(
    cells: Matrix, key: Matrix, query: Matrix, value: Matrix, output: Matrix, gamma: float
) -> tuple[list[list[float]], list[list[float]]]:
    """y_j = γ o_j + x_j of each position (N, C), and β (N, N), row j for position j: equations 1 to 3 of Zhang et al. 2019.

    The matrices are W_f, W_g, W_h and W_v, rows being outputs.
    """
    found, attention = [], []
    for j in range(len(cells)):
        scores = [_dot(_product(key, cells[i]), _product(query, cells[j])) for i in range(len(cells))]
        total = sum(math.exp(score) for score in scores)
        row = [math.exp(score) / total for score in scores]
        seen = [0.0] * len(value)
        for i in range(len(cells)):
            for channel, number in enumerate(_product(value, cells[i])):
                seen[channel] += row[i] * number
        found.append([gamma * o + x for o, x in zip(_product(output, seen), cells[j], strict=True)])
        attention.append(row)
    return found, attention


def conditional_norm(maps: Sequence[Matrix], scales: Matrix, shifts: Matrix, epsilon: float) -> list[list[list[float]]]:
    """Batch normalisation of maps (B, C, N); scales and shifts (B, C) are those of each example's class."""
    found = [[[0.0] * len(channel) for channel in example] for example in maps]
    for channel in range(len(maps[0])):
        numbers = [number for example in maps for number in example[channel]]
        mean = sum(numbers) / len(numbers)
        variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
        for index, example in enumerate(maps):
            for place, number in enumerate(example[channel]):
                unit = (number - mean) / math.sqrt(variance + epsilon)
                found[index][channel][place] = scales[index][channel] * unit + shifts[index][channel]
    return found


def hinge_losses(on_real: Vector, on_fake: Vector) -> tuple[float, float]:
    """L_D and L_G, equation 4, from the outputs of the discriminator."""
    real = sum(-min(0.0, -1 + score) for score in on_real) / len(on_real)
    fake = sum(-min(0.0, -1 - score) for score in on_fake) / len(on_fake)
    return real + fake, -sum(on_fake) / len(on_fake)


def convolution(channels: Sequence[Matrix], weight: Sequence[Sequence[Matrix]], bias: Vector) -> list[list[list[float]]]:
    """3 × 3 with padding 1: channels (C, H, W), weight (C', C, 3, 3) -> (C', H, W)."""
    height, width = len(channels[0]), len(channels[0][0])
    found = [[[bias[o]] * width for _ in range(height)] for o in range(len(weight))]
    for o, kernels in enumerate(weight):
        for c, kernel in enumerate(kernels):
            for y in range(height):
                for x in range(width):
                    for dy in range(3):
                        for dx in range(3):
                            if 0 <= y + dy - 1 < height and 0 <= x + dx - 1 < width:
                                found[o][y][x] += kernel[dy][dx] * channels[c][y + dy - 1][x + dx - 1]
    return found


def halved(channels: Sequence[Matrix]) -> list[list[list[float]]]:
    """The mean of each 2 × 2 cells."""
    return [
        [
            [(top[x] + top[x + 1] + bottom[x] + bottom[x + 1]) / 4 for x in range(0, len(top), 2)]
            for top, bottom in zip(channel[::2], channel[1::2], strict=True)
        ]
        for channel in channels
    ]


def doubled(channels: Sequence[Matrix]) -> list[list[list[float]]]:
    """Each cell repeated as 2 × 2 cells."""
    return [[[row[x // 2] for x in range(2 * len(row))] for row in channel for _ in range(2)] for channel in channels]


def _dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _product(matrix: Matrix, x: Vector) -> list[float]:
    return [_dot(row, x) for row in matrix]
