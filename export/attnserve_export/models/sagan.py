# SPDX-License-Identifier: Apache-2.0
"""SAGAN: Self-Attention Generative Adversarial Networks (Zhang et al. 2019), https://arxiv.org/abs/1805.08318, for 32 × 32 pixels.

Generator and discriminator are residual networks as in section 5 of the paper: spectral normalisation in both (section
4.1), conditional batch normalisation in the generator, projection in the discriminator (Miyato & Koyama 2018), one
self-attention layer in each, at 16 × 16 cells.

What differs from the paper:

* Sizes: 32 × 32 pixels; the generator's maps are 4w, 2w and w channels wide and the discriminator's 2w, 4w, 4w and 4w, w = 32.
* A change of the resolution and the adjacent convolution are one operation (``layers/resampled.py``); the values are the same.
* Training (``training/generation``): both networks are updated once with the same generated images; the generator's rate is 2e-4
  instead of 1e-4, and both rates fall to 0 at the end, since the run is short; JPEG block artefacts are removed from the images.
* ``attention=False`` omits the layers: the twin against which the gain of the attention is measured.
* The shipped weights are a moving average of the generator's normalised weights (Karras et al. 2018, section 4.1; Brock et al.
  2019, appendix C), and its batch statistics are recomputed from many batches: the average needs no spectral normalisation, and
  one image's values do not depend on the other images of its batch.

Symbols of the paper and their names here: f, g, h, v -> ``key``, ``query``, ``value``, ``output``; β -> ``attention``;
γ -> ``gamma``; C̄ = C / k -> ``channels // reduction``; z -> ``latent``; y -> ``label``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.layers.resampled import convolve_then_halve, double_then_convolve
from attnserve_export.layers.spectral import normalised

IMAGE_SIZE = 32
ATTENTION_SIZE = 16
"""Cells on a side of the attention layers' maps."""


@dataclass(frozen=True, slots=True)
class SaganConfig:
    """Sizes. ``num_classes`` comes first, like the vocabulary's size of the models that generate text."""

    num_classes: int
    latent: int = 128
    """Size of the latent vector, drawn from N(0, 1)."""
    width: int = 32
    """Channels at full resolution, w."""
    reduction: int = 8
    """k of section 3: the ratio of the maps' channels to those of keys, queries and values."""
    attention: bool = True

    def __post_init__(self) -> None:
        if (2 * self.width) % self.reduction:
            raise ValueError(f"twice the width ({2 * self.width}) must be a multiple of reduction ({self.reduction})")


def _conv(inputs: int, outputs: int, kernel: int, spectral: bool, bias: bool = True) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return normalised(layer) if spectral else layer


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class SelfAttention(nn.Module):
    """y = γ o + x, equation 3; o_j = v(Σ_i β_{j,i} h(x_i)), equation 2; β_{j,i} = softmax over i of f(x_i)ᵀ g(x_j), equation 1."""

    def __init__(self, channels: int, reduction: int, spectral: bool) -> None:
        super().__init__()
        inner = channels // reduction
        self.key = _conv(channels, inner, 1, spectral, bias=False)
        self.query = _conv(channels, inner, 1, spectral, bias=False)
        self.value = _conv(channels, inner, 1, spectral, bias=False)
        self.output = _conv(inner, channels, 1, spectral, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, give_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) -> a map of the same shape, and β if requested.

        β is (B, N, N) with N = H W: row j is the attention of position j. Unless requested, it is never in memory as a whole.
        """
        keys, queries, values = (layer(x).flatten(2).transpose(1, 2) for layer in (self.key, self.query, self.value))
        attention: Tensor | None = None
        if give_attention:
            attention = (queries @ keys.transpose(1, 2)).softmax(-1)
            seen = attention @ values
        else:
            queries, keys, values = queries[:, None], keys[:, None], values[:, None]  # one head
            seen = functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)[:, 0]
        seen = seen.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.gamma * self.output(seen), attention


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift belong to the class (Dumoulin et al. 2017, equation 3)."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B, C, H, W) and class numbers (B) -> (B, C, H, W)."""
        return cast(Tensor, self.scale(label)[:, :, None, None] * self.norm(x) + self.shift(label)[:, :, None, None])


class GeneratorBlock(nn.Module):
    """Two normalised 3 × 3 convolutions, the first at twice the resolution, and the shortcut (Miyato et al. 2018, table 4)."""

    def __init__(self, num_classes: int, inputs: int, outputs: int, spectral: bool) -> None:
        super().__init__()
        self.norm_1 = ConditionalBatchNorm(num_classes, inputs)
        self.conv_1 = _conv(inputs, outputs, 3, spectral)
        self.norm_2 = ConditionalBatchNorm(num_classes, outputs)
        self.conv_2 = _conv(outputs, outputs, 3, spectral)
        self.shortcut = _conv(inputs, outputs, 1, spectral)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W)."""
        out = functional.relu(self.norm_1(x, label))
        out = double_then_convolve(out, self.conv_1.weight, self.conv_1.bias)
        out = self.conv_2(functional.relu(self.norm_2(out, label)))
        return cast(Tensor, out + _double(self.shortcut(x)))


class Generator(nn.Module):
    """Maps a latent vector and a class to an image.

    Args:
        config: sizes.
        spectral: whether the weights are normalised in every use; false for the moving average, which holds normalised weights.
    """

    def __init__(self, config: SaganConfig, spectral: bool = True) -> None:
        super().__init__()
        self.config = config
        width, classes = config.width, config.num_classes
        linear = nn.Linear(config.latent, 16 * 4 * width)
        self.input = normalised(linear) if spectral else linear
        sizes = ((4 * width, 4 * width), (4 * width, 2 * width), (2 * width, width))
        self.blocks = nn.ModuleList(GeneratorBlock(classes, *size, spectral) for size in sizes)
        self.norm = nn.BatchNorm2d(width)
        self.output = _conv(width, 3, 3, spectral)
        # Last, so that a twin of the same seed has the same other initial weights.
        self.attention = SelfAttention(2 * width, config.reduction, spectral) if config.attention else None

    def forward(self, latent: Tensor, label: Tensor, give_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Latent vectors (B, latent) and class numbers int64 (B) -> images, and the attention if requested.

        Returns:
            (B, 3, 32, 32) from -1 to 1; and β (B, 256, 256), row j for position j = 16 row + column of the 16 × 16 cells, or
            None if not requested, and for the twin.
        """
        x = self.input(latent).view(-1, 4 * self.config.width, 4, 4).contiguous(memory_format=torch.channels_last)
        attention = None
        for block in cast(Sequence[GeneratorBlock], self.blocks):
            x = block(x, label)
            if self.attention is not None and x.shape[-1] == ATTENTION_SIZE:
                x, attention = self.attention(x, give_attention)
        return torch.tanh(self.output(functional.relu(self.norm(x))).float()), attention


class DiscriminatorBlock(nn.Module):
    """Two 3 × 3 convolutions and the shortcut, at half the resolution or the same (Miyato et al. 2018, table 4)."""

    def __init__(self, inputs: int, inner: int, outputs: int, halves: bool = True, is_first: bool = False) -> None:
        super().__init__()
        self.halves, self.is_first = halves, is_first
        self.conv_1 = _conv(inputs, inner, 3, True)
        self.conv_2 = _conv(inner, outputs, 3, True)
        self.shortcut = _conv(inputs, outputs, 1, True) if halves else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2), or the same resolution."""
        out = functional.relu(self.conv_1(x if self.is_first else functional.relu(x)))
        if self.shortcut is None:
            return cast(Tensor, self.conv_2(out) + x)
        out = convolve_then_halve(out, self.conv_2.weight, self.conv_2.bias)
        return cast(Tensor, out + self.shortcut(functional.avg_pool2d(x, 2)))


class Discriminator(nn.Module):
    """Maps an image and a class to a score: higher is more real. D(x, y) = w_yᵀ φ(x) + ψ(φ(x)) (Miyato & Koyama 2018)."""

    def __init__(self, config: SaganConfig) -> None:
        super().__init__()
        width = config.width
        self.blocks = nn.ModuleList(
            (
                DiscriminatorBlock(3, width, 2 * width, is_first=True),
                DiscriminatorBlock(2 * width, 2 * width, 4 * width),
                DiscriminatorBlock(4 * width, 4 * width, 4 * width),
                DiscriminatorBlock(4 * width, 4 * width, 4 * width, halves=False),
            )
        )
        self.output = normalised(nn.Linear(4 * width, 1))
        self.projection = normalised(nn.Embedding(config.num_classes, 4 * width))
        # Last, so that a twin of the same seed has the same other initial weights.
        self.attention = SelfAttention(2 * width, config.reduction, True) if config.attention else None

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """(B, 3, 32, 32) from -1 to 1, and class numbers int64 (B) -> (B), float32."""
        x = image.contiguous(memory_format=torch.channels_last)
        for block in cast(Sequence[DiscriminatorBlock], self.blocks):
            x = block(x)
            if self.attention is not None and x.shape[-1] == ATTENTION_SIZE:
                x, _ = self.attention(x)
        features = functional.relu(x).float().sum((2, 3))
        weights = self.projection(label) + self.output.weight
        return cast(Tensor, (weights * features).sum(1) + self.output.bias)


@torch.no_grad()
def average_into(average: Generator, generator: Generator, decay: float | Tensor) -> None:
    """Moves each weight of ``average`` towards the generator's normalised one: a <- decay a + (1 - decay) w; ``decay`` is ()."""
    is_training = generator.training
    generator.eval()  # in training mode each access to a weight makes a step of the power iteration
    for name, weight in average.named_parameters():
        weight.lerp_(attrgetter(name)(generator), 1 - decay)
    generator.train(is_training)


@contextmanager
def _statistics_of_many(generator: Generator) -> Iterator[None]:
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the unweighted mean over all batches
    generator.train()
    try:
        yield
    finally:
        generator.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def fix_statistics(average: Generator, batches: int, batch: int, seed: int) -> None:
    """Recomputes the statistics of the batch normalisation over all classes, and switches to evaluation mode.

    Then an image's values depend on its latent vector and class only.
    """
    device, config = next(average.parameters()).device, average.config
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(batch, device=device) % config.num_classes
    with _statistics_of_many(average):
        for _ in range(batches):
            average(torch.randn(batch, config.latent, generator=generator).to(device), labels)


class ShippedGenerator(nn.Module):
    """The served form: the average with fixed statistics, pixels as output, and one position's attention."""

    def __init__(self, average: Generator) -> None:
        super().__init__()
        self.generator = average.eval()

    def forward(self, latent: Tensor, label: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Generates one image for each row.

        Args:
            latent: (B, latent) float.
            label: class numbers int64 (B).
            position: int64 (B), 16 row + column of the cell, of 16 × 16, whose attention is requested.

        Returns:
            Pixels from 0 to 255, uint8 (B, 32, 32, 3); and the attention (B, 16, 16) with sum 1, or zeros for the twin.
        """
        image, attention = self.generator(latent, label, give_attention=True)
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        if attention is None:
            return pixels, image.new_zeros(len(image), ATTENTION_SIZE, ATTENTION_SIZE)
        index = position[:, None, None].expand(-1, 1, attention.shape[-1])
        return pixels, attention.gather(1, index).view(-1, ATTENTION_SIZE, ATTENTION_SIZE)
