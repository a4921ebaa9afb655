# SPDX-License-Identifier: Apache-2.0
"""Spectral normalisation (Miyato et al. 2018, https://arxiv.org/abs/1802.05957): a weight divided by its largest singular value.

PyTorch's parametrisation does the same, but computes its products in 16 bits under autocast; the power iteration needs 32.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear, nn.Embedding)
_FIRST_STEPS = 15


class SpectralNorm(nn.Module):
    """W / σ(W), equation 8; σ by the power iteration of algorithm 1, one step for each use in training mode, else none.

    Args:
        weight: (rows, ...); all dimensions but the first are flattened.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("left", functional.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0))
        self.register_buffer("right", functional.normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0))
        self._iterate(matrix, _FIRST_STEPS)

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight, of the same shape. The gradient passes through σ, not through the two vectors."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self._iterate(matrix.detach(), 1)
            left, right = self.left.clone(), self.right.clone()  # the next use changes the buffers before the backward pass
            return weight / torch.dot(left, torch.mv(matrix, right))

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, steps: int) -> None:
        for _ in range(steps):
            self.right.copy_(functional.normalize(torch.mv(matrix.T, self.left), dim=0))
            self.left.copy_(functional.normalize(torch.mv(matrix, self.right), dim=0))


def normalised(layer: Layer) -> Layer:
    """Returns the same layer; its weight is divided by its largest singular value in every use."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer
