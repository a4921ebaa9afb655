# SPDX-License-Identifier: Apache-2.0
"""A 3 × 3 convolution and a change of the resolution by 2 as one operation with the same values.

Both are linear, so their composition is a convolution with a 4 × 4 kernel and stride 2: 16 products for four pixels of the higher
resolution instead of 36. The borders agree too: in both forms the zero padding lies outside the image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _spread(kernel: Tensor) -> Tensor:
    """Returns the sum of a 3 × 3 kernel (..., 3, 3) placed at the four corners of 4 × 4 cells.

    The sum is computed in at least 32 bits: ONNX Runtime then computes it when it loads a graph, also of weights of 16 bits.
    """
    corners = ((0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0))
    wide = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    first, *others = (functional.pad(wide, corner) for corner in corners)
    for each in others:
        first = first + each
    return first.to(kernel.dtype)


def convolve_then_halve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with padding 1, then the mean of each 2 × 2 cells.

    Args:
        x: (B, C, H, W) with H and W even.
        weight: (C', C, 3, 3).
        bias: (C'), or None.

    Returns:
        (B, C', H / 2, W / 2).
    """
    return functional.conv2d(x, _spread(weight) / 4, bias, stride=2, padding=1)


def double_then_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each cell repeated as 2 × 2 cells, then the convolution with padding 1.

    Args:
        x: (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C'), or None.

    Returns:
        (B, C', 2 H, 2 W).
    """
    return functional.conv_transpose2d(x, _spread(weight.flip(2, 3)).transpose(0, 1), bias, stride=2, padding=1)
