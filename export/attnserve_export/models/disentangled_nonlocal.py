# SPDX-License-Identifier: Apache-2.0
"""Disentangled Non-local (Yin et al. 2020, https://arxiv.org/abs/2006.06668), in a network for semantic segmentation.

The trunk is EfficientNet-Lite0 up to stride 16. The block follows it; then a decoder of two levels adds the trunk's outputs at
strides 8 and 4.

What differs from the paper:

* The trunk and the decoder; the paper has a dilated ResNet-101 at stride 8.
* The scores of a pair are divided by the square root of the number of channels, as in Vaswani et al. 2017.
* ``block="nonlocal"`` is the block that the paper extends (Wang et al. 2018, embedded Gaussian); ``"none"`` omits the block. They
  are the twins against which the gain is measured. A twin of the same seed has the same other initial weights.
* Images of different sizes can be padded to one size: see :meth:`DisentangledNonLocal.forward`.

Symbols of the paper and their names here: x -> ``x``; q, k -> ``queries``, ``keys``; mu_q, mu_k -> the means in
:func:`centred`; m -> ``unary``; v (g in Wang et al.) -> ``values``; omega_p -> ``pairwise``; omega_u -> ``unary`` weights;
W_z -> ``output``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.layers import efficientnet
from attnserve_export.layers.efficientnet import EfficientNetLite0

STRIDE = 16
"""Pixels of an image for one cell of the attention, in each direction."""
LEVEL_STRIDES, LEVEL_CHANNELS = (4, 8, 16), (24, 40, 112)
"""Strides and channels of the trunk's outputs that are used."""
_STAGES, _LEVELS = 5, (1, 2, 4)
_MASKED = -30000.0
"""Score of a cell of padding. 16-bit floating point can represent it."""


@dataclass(frozen=True, slots=True)
class DisentangledNonLocalConfig:
    """Sizes. ``num_classes`` comes first, like the vocabulary's size of the models that generate text."""

    num_classes: int
    block: Literal["dnl", "nonlocal", "none"] = "dnl"
    width: int = 96
    """Channels of the block's input and output."""
    inner: int = 48
    """Channels of queries, keys and values."""
    decoder: tuple[int, int] = (64, 48)
    """Channels of the decoder at strides 8 and 4."""

    def __post_init__(self) -> None:
        if self.block not in ("dnl", "nonlocal", "none"):
            raise ValueError(f"block must be dnl, nonlocal or none, not {self.block!r}")


@dataclass(frozen=True, slots=True)
class CellAttention:
    """Attention weights of the block. The N cells are in row-major order."""

    pairwise: Tensor
    """(B, N, N): of a cell (second axis) over all cells; each row sums to 1."""
    unary: Tensor | None
    """(B, N): the term that all cells share, with sum 1; None with ``block="nonlocal"``."""


def centred(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """X - mu, the mean mu taken over the valid cells: the whitening of section 3.

    Args:
        x: (B, N, D).
        valid: (B, N), False for padding; None if all cells are valid.
    """
    if valid is None:
        return x - x.mean(1, keepdim=True)
    share = valid.to(x.dtype)
    share = share / share.sum(1, keepdim=True)
    return x - share.unsqueeze(1) @ x


def pairwise_weights(queries: Tensor, keys: Tensor, valid: Tensor | None = None, *, whitened: bool) -> Tensor:
    """Softmax over j of q_i . k_j (Wang et al. 2018, equation 3), or of (q_i - mu_q) . (k_j - mu_k), the whitened term.

    Args:
        queries: (B, N, D).
        keys: (B, N, D).
        valid: (B, N), False for padding, which gets the weight 0; None if all cells are valid.
        whitened: whether the means over all cells are subtracted. Then a vector that is added to all queries, or to all keys,
            has no effect.

    Returns:
        (B, N, N).
    """
    if whitened:
        queries, keys = centred(queries, valid), centred(keys, valid)
    scores = (queries * (1 / math.sqrt(queries.shape[-1]))) @ keys.transpose(1, 2)
    if valid is not None:
        scores = scores.masked_fill(~valid.unsqueeze(1), _MASKED)
    return scores.softmax(-1)


def unary_weights(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Softmax over j of m_j, the unary term; (B, N) -> (B, N)."""
    if valid is not None:
        scores = scores.masked_fill(~valid, _MASKED)
    return scores.softmax(-1)


class NonLocalBlock(nn.Module):
    """z_i = x_i + W_z sum_j w_ij v_j. Plain: w = omega of :func:`pairwise_weights`; disentangled: w = omega_p + omega_u.

    W_z starts at 0, so a new block is the identity (Wang et al. 2018, section 3.3).
    """

    def __init__(self, channels: int, inner: int, *, disentangled: bool) -> None:
        super().__init__()
        self.query = nn.Conv1d(channels, inner, 1, bias=not disentangled)  # whitening cancels a bias
        self.key = nn.Conv1d(channels, inner, 1, bias=not disentangled)
        self.value = nn.Conv1d(channels, inner, 1)
        self.unary = nn.Conv1d(channels, 1, 1, bias=False) if disentangled else None
        self.output = nn.Conv1d(inner, channels, 1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, CellAttention]:
        """(B, C, H, W) and (B, H x W) -> (B, C, H, W), and the weights."""
        cells = x.flatten(2)  # (B, C, N)
        queries, keys, values = (each(cells).transpose(1, 2) for each in (self.query, self.key, self.value))  # (B, N, D)
        pairwise = pairwise_weights(queries, keys, valid, whitened=self.unary is not None)
        read = pairwise @ values
        unary = None
        if self.unary is not None:
            unary = unary_weights(self.unary(cells).squeeze(1), valid)
            read = read + unary.unsqueeze(1) @ values
        change = self.output(read.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + change, CellAttention(pairwise, unary)


class _Mix(nn.Module):
    """A 3 × 3 convolution of each channel, a 1 × 1 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.project = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.project(self.depthwise(x))))


class DisentangledNonLocal(nn.Module):
    """Maps pixels to the logits of the classes of each pixel."""

    def __init__(self, config: DisentangledNonLocalConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = LEVEL_CHANNELS
        self.encoder = EfficientNetLite0(_STAGES)
        self.reduce = nn.Conv2d(coarse, config.width, 1, bias=False)
        self.norm = nn.BatchNorm2d(config.width)
        self.mix_16 = _Mix(config.width, config.width)
        self.mix_8 = _Mix(config.width + middle, config.decoder[0])
        self.mix_4 = _Mix(config.decoder[0] + fine, config.decoder[1])
        self.classify = nn.Conv2d(config.decoder[1], config.num_classes, 1)
        self.block: NonLocalBlock | None = None
        if config.block != "none":  # last, so that the weights above do not depend on it
            self.block = NonLocalBlock(config.width, config.inner, disentangled=config.block == "dnl")

    def load_imagenet(self) -> None:
        """Sets the trunk's weights to those trained on ImageNet.

        Raises:
            FileNotFoundError: as :func:`attnserve_export.layers.efficientnet.imagenet_weights`.
        """
        self.encoder.load_state_dict(efficientnet.imagenet_weights(_STAGES))

    def forward(
        self, image: Tensor, mask: Tensor | None = None, *, give_attention: bool = False
    ) -> tuple[Tensor, CellAttention | None]:
        """Computes the logits of each pixel.

        Padding does not change an image's logits: padded cells have no weight in any layer, nor in the last interpolation.

        Args:
            image: pixels from 0 to 255, (B, H, W, 3), red, green, blue, of any type.
            mask: (B, H, W) bool, True for pixels of the image. Padding lies to the right and below; its pixels may have any value.
                None if there is no padding.
            give_attention: whether to return the block's weights.

        In an exported graph with H and W as named axes, both must be multiples of 16 (it is traced with such sizes).

        Returns:
            Logits (B, classes, H, W), and the block's weights over ceil(H / 16) x ceil(W / 16) cells (None without a block or
            without ``give_attention``).
        """
        height, width = image.shape[1:3]
        if mask is None and (height % STRIDE or width % STRIDE):
            mask = torch.ones(image.shape[:3], dtype=torch.bool, device=image.device)
        logits, attention = self.segment(self.features(image, mask), mask)
        if height % STRIDE or width % STRIDE:
            logits = logits[:, :, :height, :width]
        return logits, attention if give_attention else None

    def features(self, image: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Returns the trunk's outputs at strides 4, 8, 16: (B, 24 / 40 / 112, h, w), with H and W rounded up to multiples of 16.

        ``image`` and ``mask`` are as for :meth:`forward`, but a mask must be given if H or W is not a multiple of 16.
        """
        whole = _whole(image.float().permute(0, 3, 1, 2), float(efficientnet.MEAN)).permute(0, 2, 3, 1)
        levels = self.encoder.levels(whole, None if mask is None else _whole_mask(mask))
        return [levels[stage] for stage in _LEVELS]

    def segment(self, levels: Sequence[Tensor], mask: Tensor | None = None) -> tuple[Tensor, CellAttention | None]:
        """Applies the layers after the trunk.

        Args:
            levels: as :meth:`features` returns them.
            mask: as for :meth:`forward`.

        Returns:
            Logits (B, classes, 4 x h, 4 x w) for the h x w cells of the first level, and the block's weights if there is one.
        """
        valid: Sequence[Tensor | None] = (None, None, None) if mask is None else _cells(mask)
        x = _kept(functional.relu(self.norm(self.reduce(levels[2]))), valid[2])
        attention = None
        if self.block is not None:
            x, attention = self.block(x, None if valid[2] is None else valid[2].flatten(1))
        x = self.mix_16(_kept(x, valid[2]))
        x = self.mix_8(_kept(torch.cat((_doubled(x), levels[1]), 1), valid[1]))
        x = self.mix_4(_kept(torch.cat((_doubled(x), levels[0]), 1), valid[0]))
        x = self.classify(x)
        if valid[0] is not None:
            x = clamped(x, valid[0].any(2)[:, None, :, None], valid[0].any(1)[:, None, None, :])
        return functional.interpolate(x, scale_factor=float(LEVEL_STRIDES[0]), mode="bilinear"), attention


def clamped(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Copies the last row and column of a picture into the padding beside it, so that an interpolation does not see the padding.

    A bilinear interpolation of the result is, inside the picture, that of the picture alone, which repeats its border.

    Args:
        x: (B, C, h, w).
        rows: (B, 1, h, 1) bool, True for rows of the picture.
        columns: (B, 1, 1, w) bool, True for columns of the picture.

    Returns:
        (B, C, h, w).
    """
    x = torch.where(rows, x, torch.cat((x[:, :, :1], x[:, :, :-1]), 2))
    return torch.where(columns, x, torch.cat((x[..., :1], x[..., :-1]), 3))


def _whole(x: Tensor, value: float) -> Tensor:
    """Pads (B, C, H, W) to the right and below, so that H and W are multiples of 16."""
    rows, columns = x.shape[2] % STRIDE, x.shape[3] % STRIDE
    if rows or columns:
        return functional.pad(x, (0, -columns % STRIDE, 0, -rows % STRIDE), value=value)
    return x


def _whole_mask(mask: Tensor) -> Tensor:
    """Pads (B, H, W) to multiples of 16, with False."""
    return _whole(mask.float().unsqueeze(1), 0.0).squeeze(1) > 0


def _cells(mask: Tensor) -> list[Tensor]:
    """(B, H, W) -> for each level the cells that contain a pixel of the image, (B, h, w) bool."""
    whole = _whole_mask(mask)
    return [whole[:, ::stride, ::stride] for stride in LEVEL_STRIDES]  # a cell's first pixel: padding lies right and below


def _kept(x: Tensor, valid: Tensor | None) -> Tensor:
    """Sets padding to zero, as outside an image."""
    return x if valid is None else x * valid.unsqueeze(1).to(x.dtype)


def _doubled(x: Tensor) -> Tensor:
    """Repeats each cell twice in each direction; a cell of the image is not mixed with padding."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
