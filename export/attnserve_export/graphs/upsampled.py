# SPDX-License-Identifier: Apache-2.0
"""The most probable class of each pixel, and its probability, from logits at a lower resolution.

The classes are those of the logits interpolated to the full resolution; choosing them before that would give other classes at every
edge. The largest logit of each cell is subtracted before the interpolation, which changes no softmax, so that exponentials stay in
range. A running maximum over the classes replaces ArgMax over the second axis, which ONNX Runtime computes slowly on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class UpsampledClasses(nn.Module):
    """Bilinear interpolation, and the class with the largest logit; of equal ones the first.

    Args:
        num_classes: at most 255.
        factor: of the interpolation, in each direction.
    """

    indices: Tensor

    def __init__(self, num_classes: int, factor: int) -> None:
        super().__init__()
        self.factor = float(factor)
        self.register_buffer("indices", torch.arange(num_classes, dtype=torch.uint8), persistent=False)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(B, classes, h, w) -> classes and round(255 p), uint8 (B, factor h, factor w) each."""
        logits = logits.float()
        logits = logits - logits.amax(1, keepdim=True)
        logits = functional.interpolate(logits, scale_factor=self.factor, mode="bilinear")
        first, *others = logits.unbind(1)
        best, found = first, torch.zeros_like(first, dtype=torch.uint8)
        for index, each in zip(self.indices[1:], others, strict=True):
            found = torch.where(each > best, index, found)
            best = torch.maximum(best, each)
        total = (logits - best.unsqueeze(1)).exp().sum(1)
        return found, (255 / total).round().to(torch.uint8)
