# SPDX-License-Identifier: Apache-2.0
"""CBAM: Convolutional Block Attention Module (Woo et al. 2018), https://arxiv.org/abs/1807.06521, in a ResNet for 32 × 32 pixels.

The network is ResNet-20 of He et al. 2016, section 4.2: three stages of three blocks, 16, 32 and 64 channels wide, shortcuts
without parameters (option A). Every block has an attention module, before the shortcut is added (figure 3 of Woo et al.).

What differs from the paper:

* The reduction ratio r is 8 instead of 16, since the first stage has 16 channels only.
* ``attention=False`` omits the modules: the twin against which the gain of the attention is measured.

Symbols of the paper and their names here: F -> ``x``; M_c -> ``channel``; M_s -> ``spatial``; W_0, W_1 -> ``squeeze``,
``excite``; f^{7×7} -> ``conv``; r -> ``reduction``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 32
MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Mean and deviation of red, green and blue over the training images of CIFAR-10, on the scale from 0 to 255."""


@dataclass(frozen=True, slots=True)
class CbamConfig:
    """Sizes. ``num_classes`` comes first, like the vocabulary's size of the models that generate text."""

    num_classes: int
    width: int = 16
    """Channels of the first stage."""
    blocks: int = 3
    """Number of residual blocks of a stage: 3 for ResNet-20."""
    reduction: int = 8
    kernel: int = 7
    """Kernel size of the spatial attention's convolution, in cells."""
    attention: bool = True

    def __post_init__(self) -> None:
        if self.width % self.reduction:
            raise ValueError(f"width ({self.width}) must be a multiple of reduction ({self.reduction})")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")


@dataclass(frozen=True, slots=True)
class BlockAttention:
    """Attention of one module: M_c(F) as (B, C), and M_s(F') as (B, H, W), both from 0 to 1."""

    channel: Tensor
    spatial: Tensor


class ChannelAttention(nn.Module):
    """M_c(F) = sigmoid(W_1(relu(W_0(F_avg))) + W_1(relu(W_0(F_max)))), equation 2."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> weights (B, C)."""
        pooled = torch.stack((x.mean((2, 3)), functional.adaptive_max_pool2d(x, 1).flatten(1)))  # (2, B, C)
        return torch.sigmoid(self.excite(functional.relu(self.squeeze(pooled))).sum(0))


class SpatialAttention(nn.Module):
    """M_s(F) = sigmoid(f^{7×7}([F_avg; F_max])), equation 3; the pools are over the channels."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> weights (B, H, W)."""
        pooled = torch.stack((x.mean(1), x.amax(1)), 1)  # (B, 2, H, W)
        return torch.sigmoid(self.conv(pooled)).squeeze(1)


class AttentionModule(nn.Module):
    """F' = M_c(F) * F and F'' = M_s(F') * F', equation 1."""

    def __init__(self, channels: int, reduction: int, kernel: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention(kernel)

    def forward(self, x: Tensor) -> tuple[Tensor, BlockAttention]:
        """(B, C, H, W) -> the refined map of the same shape, and the attention."""
        channel: Tensor = self.channel(x)
        x = channel[:, :, None, None] * x
        spatial: Tensor = self.spatial(x)
        return spatial[:, None] * x, BlockAttention(channel, spatial)


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with batch normalisation, the attention module if the network has them, and the shortcut."""

    def __init__(self, inputs: int, outputs: int, config: CbamConfig) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(outputs)
        self.attention: AttentionModule | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, BlockAttention | None]:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = self.norm_2(self.conv_2(functional.relu(self.norm_1(self.conv_1(x)))))
        attended = None
        if self.attention is not None:
            out, attended = self.attention(out)
        missing = out.shape[1] - x.shape[1]
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if missing:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, missing))
        return functional.relu(out + shortcut), attended


class Cbam(nn.Module):
    """Maps pixels to the logits of the classes."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: CbamConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION), persistent=False)
        self.stem = nn.Conv2d(3, config.width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(config.width)
        self.blocks = nn.ModuleList()
        inputs = config.width
        for stage in range(3):
            for _ in range(config.blocks):
                self.blocks.append(ResidualBlock(inputs, config.width << stage, config))
                inputs = config.width << stage
        self.output = nn.Linear(inputs, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.attention:  # last, so that a twin of the same seed has the same other initial weights
            for block in cast(Sequence[ResidualBlock], self.blocks):
                block.attention = AttentionModule(block.conv_2.out_channels, config.reduction, config.kernel)

    def forward(self, image: Tensor) -> tuple[Tensor, list[BlockAttention]]:
        """Pixels from 0 to 255, (B, 32, 32, 3), red, green, blue, of any type -> logits (B, classes), attention of each block."""
        x = ((image.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last in memory
        x = functional.relu(self.norm(self.stem(x.to(self.stem.weight.dtype))))
        attended: list[BlockAttention] = []
        for block in cast(Sequence[ResidualBlock], self.blocks):
            x, of_block = block(x)
            if of_block is not None:
                attended.append(of_block)
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits, attended
