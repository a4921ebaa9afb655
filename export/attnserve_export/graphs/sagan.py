# SPDX-License-Identifier: Apache-2.0
"""The graphs of SAGAN's generator: a latent vector and a class to pixels, with or without the self-attention of one cell.

The discriminator is not exported. Spectral normalisation needs no folding: the moving average that is shipped holds normalised
weights (``models/sagan.py: average_into``).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import FLOAT32, INT64, UINT8, Graphs, GraphSpec, VariantSpec, tensor
from attnserve_export.models.sagan import ATTENTION_SIZE, IMAGE_SIZE, Generator, GeneratorBlock, SaganConfig

CPU_BATCH, CUDA_BATCH = 4, 64
"""Largest batches. On a CPU an image takes 0.77 ms alone, 0.66 in batches of 4, 0.86 in batches of 8 and 1.5 in larger ones."""


def make_average(config: SaganConfig) -> Generator:
    """Returns the module whose weights a run keeps: the moving average, without spectral normalisation."""
    return Generator(config, spectral=False)


@torch.no_grad()
def fold_generator(model: nn.Module) -> None:
    """Folds what evaluation leaves constant, in place: all batch normalisations, and γ of the attention.

    Statistics of a conditional normalisation are folded into its scales and shifts, those of the last one into the convolutions
    before it, and γ into the attention's output convolution.
    """
    assert isinstance(model, Generator)
    blocks = [block for block in model.eval().blocks if isinstance(block, GeneratorBlock)]
    for conditional in (norm for block in blocks for norm in (block.norm_1, block.norm_2)):
        factor, offset = _affine(conditional.norm)
        conditional.shift.weight.add_(conditional.scale.weight * offset)
        conditional.scale.weight.mul_(factor)
        conditional.norm = nn.Identity()  # type: ignore[assignment]
    factor, offset = _affine(model.norm)
    for conv in (blocks[-1].conv_2, blocks[-1].shortcut):
        conv.weight.mul_(factor[:, None, None, None])
        assert conv.bias is not None
        conv.bias.mul_(factor)
    assert blocks[-1].conv_2.bias is not None
    blocks[-1].conv_2.bias.add_(offset)
    model.norm = nn.Identity()  # type: ignore[assignment]
    if model.attention is not None:
        model.attention.output.weight.mul_(model.attention.gamma)
        del model.attention.gamma
        model.attention.gamma = 1.0  # type: ignore[assignment]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns factor and offset of a normalisation's fixed statistics, with its own scale and shift if it has them."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    factor = (variance + norm.eps).rsqrt()
    offset = -mean * factor
    return (factor, offset) if not norm.affine else (factor * norm.weight, offset * norm.weight + norm.bias)


class GenerateGraph(nn.Module):
    """The generator and the rounding to pixels.

    Args:
        model: a folded generator; its parameters are shared.
        gives_attention: whether the attention of a cell is an output.
    """

    def __init__(self, model: Generator, *, gives_attention: bool) -> None:
        super().__init__()
        self.model, self.gives_attention = model, gives_attention

    def forward(self, latent: Tensor, label: Tensor, query: Tensor | None = None) -> tuple[Tensor, ...]:
        """Latent vectors (B, latent), classes int64 (B), cells int64 (B, 1) -> uint8 (B, 32, 32, 3); and (B, 1, 256), float32."""
        image, attention = self.model(latent.to(self.model.input.weight.dtype), label, give_attention=self.gives_attention)
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        if attention is None or query is None:
            return (pixels,)
        rows = attention.gather(1, query[:, :, None].expand(-1, -1, attention.shape[-1]))
        return pixels, rows.float()


def sagan_variants(model: Generator, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU; fp16 and fp32 for CUDA. The fp32 graphs are the same files."""
    del states
    half = copy.deepcopy(model).half()
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, passes=_passes(model, "", CPU_BATCH)),
        VariantSpec("fp16", manifest_pb2.DEVICE_CUDA, passes=_passes(half, "_fp16", CUDA_BATCH)),
        VariantSpec("fp32", manifest_pb2.DEVICE_CUDA, passes=_passes(model, "", CUDA_BATCH)),
    ]


def _passes(model: Generator, suffix: str, max_batch: int) -> list[GraphSpec]:
    latent, label = tensor("latent", FLOAT32, "batch", str(model.config.latent)), tensor("label", INT64, "batch")
    query = tensor("query", INT64, "batch", "1")
    pixels = tensor("pixels", UINT8, "batch", str(IMAGE_SIZE), str(IMAGE_SIZE), "3")
    attention = tensor("attention", FLOAT32, "batch", "1", str(ATTENTION_SIZE**2))
    plain, attended = (GenerateGraph(model, gives_attention=gives) for gives in (False, True))
    return [
        GraphSpec(f"generate{suffix}.onnx", plain, [latent, label], [pixels], max_batch=max_batch),
        GraphSpec(
            f"generate_attention{suffix}.onnx",
            attended,
            [latent, label, query],
            [pixels, attention],
            gives_attention=True,
            max_batch=max_batch,
        ),
    ]


def _single_pass(model: Generator) -> manifest_pb2.SinglePass:
    meaning = "β of equation 1: the weights of the cells that a cell attends to, after the second of three blocks."
    attention = manifest_pb2.PassAttention(
        output="attention", role=manifest_pb2.ATTENTION_ROLE_PAIRWISE, block="attention", meaning=meaning
    )
    made = manifest_pb2.PictureOutput(width=IMAGE_SIZE, height=IMAGE_SIZE, cell=IMAGE_SIZE // ATTENTION_SIZE)
    latent = manifest_pb2.LatentInput(size=model.config.latent)
    return manifest_pb2.SinglePass(attention=[attention], latent=latent, generated=made)


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Self-Attention Generative Adversarial Networks",
        authors="Zhang et al.",
        year=2019,
        url="https://arxiv.org/abs/1805.08318",
    ),
    variants=sagan_variants,
    parts={
        "input": "input",
        **{str(number): f"block {number + 1}" for number in range(3)},
        "attention": "self-attention",
        "output": "output",
    },
    single_pass=_single_pass,
)
