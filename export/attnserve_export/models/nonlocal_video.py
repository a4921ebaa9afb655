# SPDX-License-Identifier: Apache-2.0
"""Non-local Neural Networks (Wang et al. 2018), https://arxiv.org/abs/1711.07971: a space-time Non-local block in a classifier of
short clips.

The paper puts its blocks into a ResNet-50 for 224 × 224 pixels that is trained on 240,000 clips. The data set here has 174 clips,
so the trunk is frozen and the trained head is small:

1. Amplified differences of neighbouring frames are converted to images (:func:`difference_frames`).
2. EfficientNet-Lite0 with ImageNet weights, cut at stride 8, gives 40 maps of each (:class:`MotionTrunk`); appended are the
  absolute values of their changes in time. Means over space and time leave T' × H' × W' cells.
3. The head (:class:`NonlocalHead`): a 1 × 1 × 1 convolution, the Non-local block over all cells, the mean over the cells, a linear
   layer.

Further differences from the paper:

* One block, not five or ten; phi and g read all cells (no subsampling, section 3.3), since there are only a few hundred.
* ``pairwise="none"`` omits the block: the twin against which the gain of the block is measured.

Symbols of the paper and their names here: theta, phi, g, W_z -> ``query``, ``key``, ``value``, ``output``; w_f -> ``score_query``
and ``score_key`` (its two halves); f / C -> ``weights``; y, z -> ``y``, the returned map; N -> cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.layers.efficientnet import EfficientNetLite0

FRAMES, FRAME_SIZE = 32, 112
"""Number of frames of a clip, and their height and width in pixels."""
GAIN = 2.0
"""Factor of the differences of frames."""
TRUNK_BLOCKS, TRUNK_WIDTH, TRUNK_STRIDE = 5, 40, 8
"""Number of blocks of the trunk that are used, the channels of their output, and the pixels of the input for one cell of it."""
CHANNELS = 2 * TRUNK_WIDTH
"""Channels of the motion features: the trunk's maps and their absolute changes in time."""
TIME_POOL, SPACE_POOL = 5, 2
"""Number of frames, and of cells in each direction, over which a mean is taken."""

Pairwise = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation", "none"]
PAIRWISE: tuple[Pairwise, ...] = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
"""The pairwise functions of the paper, in the order of equations 2 to 5."""


def grid(frames: int = FRAMES, size: int = FRAME_SIZE) -> tuple[int, int, int]:
    """Returns T', H' and W' of the motion features of a clip."""
    side = size // TRUNK_STRIDE // SPACE_POOL
    return (frames - 2) // TIME_POOL, side, side


@dataclass(frozen=True, slots=True)
class NonlocalVideoConfig:
    """Sizes. ``num_classes`` comes first, like the vocabulary's size of the models that generate text."""

    num_classes: int
    width: int = 32
    """Channels of the head."""
    bottleneck: int = 16
    """Channels of theta, phi and g: half of ``width`` in the paper (section 3.3)."""
    pairwise: Pairwise = "embedded_gaussian"
    feature_dropout: float = 0.2
    """Rate of dropout of whole channels of the features, the same in all cells of a clip."""
    dropout: float = 0.5
    """Rate of dropout before the linear layer."""

    def __post_init__(self) -> None:
        if self.pairwise not in get_args(Pairwise):
            raise ValueError(f"pairwise must be one of {', '.join(get_args(Pairwise))}, not {self.pairwise!r}")


class NonlocalBlock(nn.Module):
    """z_i = W_z y_i + x_i, equation 6, with y_i = 1 / C(x) sum_j f(x_i, x_j) g(x_j), equation 1.

    Batch normalisation follows W_z; its scale starts at 0, so that a new block is the identity (section 4.1).
    """

    def __init__(self, width: int, bottleneck: int, pairwise: Pairwise) -> None:
        super().__init__()
        self.pairwise = pairwise
        self.value = nn.Linear(width, bottleneck)
        if pairwise != "gaussian":
            self.query = nn.Linear(width, bottleneck)
            self.key = nn.Linear(width, bottleneck)
        if pairwise == "concatenation":
            self.score_query = nn.Linear(bottleneck, 1, bias=False)
            self.score_key = nn.Linear(bottleneck, 1, bias=False)
        self.output = nn.Linear(bottleneck, width)
        self.norm = nn.BatchNorm1d(width)
        nn.init.zeros_(self.norm.weight)

    def weights(self, x: Tensor) -> Tensor:
        """f(x_i, x_j) / C(x): (B, N, D) -> (B, N, N)."""
        if self.pairwise == "gaussian":  # equation 2; C is the sum of f over j
            return torch.softmax(x @ x.transpose(1, 2), -1)
        query, key = self.query(x), self.key(x)
        if self.pairwise == "embedded_gaussian":  # equation 3; C is the sum of f over j
            return torch.softmax(query @ key.transpose(1, 2), -1)
        if self.pairwise == "dot_product":  # equation 4; C is N
            products: Tensor = query @ key.transpose(1, 2)
            return products / x.shape[1]
        scores = self.score_query(query) + self.score_key(key).transpose(1, 2)  # w_f^T [theta(x_i), phi(x_j)]
        return functional.relu(scores) / x.shape[1]  # equation 5; C is N

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> z of the same shape, and the weights (B, N, N): of cell i in row i."""
        weights = self.weights(x)
        y = self.output(weights @ self.value(x))
        return self.norm(y.transpose(1, 2)).transpose(1, 2) + x, weights


class NonlocalHead(nn.Module):
    """Maps motion features to the logits of the classes."""

    def __init__(self, config: NonlocalVideoConfig) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(CHANNELS, affine=False)
        self.feature_dropout = nn.Dropout1d(config.feature_dropout)
        self.reduce = nn.Linear(CHANNELS, config.width, bias=False)
        self.norm = nn.BatchNorm1d(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.width, config.num_classes)
        # Created last, so that a twin of the same seed has the same other initial weights.
        self.block = None
        if config.pairwise != "none":
            self.block = NonlocalBlock(config.width, config.bottleneck, config.pairwise)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, T', H', W', CHANNELS) -> logits (B, classes), weights (B, N, N) with N = T' H' W', or None without a block."""
        x = features.flatten(1, 3).transpose(1, 2)  # (B, CHANNELS, N)
        x = self.feature_dropout(self.input_norm(x)).transpose(1, 2)
        x = functional.relu(self.norm(self.reduce(x).transpose(1, 2)).transpose(1, 2))  # (B, N, width)
        weights = None
        if self.block is not None:
            x, weights = self.block(x)
        logits: Tensor = self.classify(self.dropout(x.mean(1)))
        return logits, weights


def difference_frames(clip: Tensor) -> Tensor:
    """Pixels from 0 to 255, (B, T, H, W, 3), of any type -> (B, T - 1, H, W, 3): 127 plus the amplified change, from 0 to 255."""
    clip = clip.float()
    return (127 + GAIN * (clip[:, 1:] - clip[:, :-1])).clamp(0, 255)


class MotionTrunk(nn.Module):
    """Maps pixels to motion features. Its weights are frozen, so training reads its output from a cache."""

    def __init__(self) -> None:
        super().__init__()
        trunk = EfficientNetLite0()
        self.stem, self.blocks = trunk.stem, trunk.blocks[:TRUNK_BLOCKS]
        self.requires_grad_(False)

    def forward(self, clip: Tensor) -> Tensor:
        """Pixels from 0 to 255, (B, T, H, W, 3), red, green, blue, of any type -> (B, T', H', W', CHANNELS)."""
        differences = difference_frames(clip)
        count, frames = differences.shape[:2]
        pixels = (differences.flatten(0, 1).permute(0, 3, 1, 2) - 127) / 128
        x = functional.relu6(self.stem(pixels.to(self.stem.conv.weight.dtype)))
        for block in self.blocks:
            x = block(x)
        x = x.unflatten(0, (count, frames))
        changes = (x[:, 1:] - x[:, :-1]).abs()
        x = torch.cat((x[:, 1:], changes), 2).transpose(1, 2)  # (B, CHANNELS, T - 2, H / 8, W / 8)
        pooled = functional.avg_pool3d(x, (TIME_POOL, SPACE_POOL, SPACE_POOL))
        return pooled.permute(0, 2, 3, 4, 1)


class NonlocalVideo(nn.Module):
    """Maps pixels to the logits of the classes; this module is exported."""

    def __init__(self, config: NonlocalVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = MotionTrunk()
        self.head = NonlocalHead(config)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pixels from 0 to 255, (B, T, H, W, 3), red, green, blue, of any type -> as :meth:`NonlocalHead.forward`."""
        logits, weights = self.head(self.trunk(clip))
        return logits, weights


def trunk_weights(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Selects the parameters of :class:`MotionTrunk` from those of the whole EfficientNet-Lite0 (``imagenet_weights()``)."""
    names = MotionTrunk().state_dict()
    return {name: stored[name] for name in names}
