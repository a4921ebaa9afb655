# SPDX-License-Identifier: Apache-2.0
"""The graphs of CBAM: pixels to the probabilities of the classes, with or without the attention of each block."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import FLOAT32, UINT8, Graphs, GraphSpec, VariantSpec, tensor
from attnserve_export.models.cbam import IMAGE_SIZE, Cbam

CPU_BATCH, CUDA_BATCH = 8, 64
"""Largest batches. On a CPU an image takes 0.75 ms alone, 0.61 in batches of 4, 0.63 in batches of 8 and more."""
NORMS = {"stem": "norm", "conv_1": "norm_1", "conv_2": "norm_2"}
"""Convolutions with the normalisations that a bundle's module has folded into them."""


class ClassifyGraph(nn.Module):
    """The network of :class:`Cbam` with its norms folded, and the softmax.

    Args:
        model: the module; its parameters are shared.
        gives_attention: whether the attention of each block is an output.
    """

    def __init__(self, model: Cbam, *, gives_attention: bool) -> None:
        super().__init__()
        self.model, self.gives_attention = model, gives_attention

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 32, 32, 3) -> probabilities (B, classes); then (B, C) and (B, H, W) of each block. All are float32."""
        logits, attended = self.model(image)
        probabilities = logits.float().softmax(-1)
        if not self.gives_attention:
            return (probabilities,)
        return probabilities, *(part.float() for each in attended for part in (each.channel, each.spatial))


def cbam_variants(model: Cbam, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU; fp16 and fp32 for CUDA. The fp32 graphs are the same files."""
    del states
    half = copy.deepcopy(model).half()
    half.mean, half.deviation = model.mean, model.deviation
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, passes=_passes(model, "", CPU_BATCH)),
        VariantSpec("fp16", manifest_pb2.DEVICE_CUDA, passes=_passes(half, "_fp16", CUDA_BATCH)),
        VariantSpec("fp32", manifest_pb2.DEVICE_CUDA, passes=_passes(model, "", CUDA_BATCH)),
    ]


def block_sizes(model: Cbam) -> list[tuple[int, int]]:
    """Returns channels and side of the feature map of each block."""
    config = model.config
    return [(config.width << stage, IMAGE_SIZE >> stage) for stage in range(3) for _ in range(config.blocks)]


def _passes(model: Cbam, suffix: str, max_batch: int) -> list[GraphSpec]:
    side = str(IMAGE_SIZE)
    image = tensor("image", UINT8, "batch", side, side, "3")
    probabilities = tensor("probabilities", FLOAT32, "batch", str(model.config.num_classes))
    maps = []
    for number, (channels, cells) in enumerate(block_sizes(model), 1):
        maps.append(tensor(f"channel_{number}", FLOAT32, "batch", str(channels)))
        maps.append(tensor(f"spatial_{number}", FLOAT32, "batch", str(cells), str(cells)))
    plain, attended = (ClassifyGraph(model, gives_attention=gives) for gives in (False, True))
    return [
        GraphSpec(f"classify{suffix}.onnx", plain, [image], [probabilities], max_batch=max_batch),
        GraphSpec(
            f"classify_attention{suffix}.onnx",
            attended,
            [image],
            [probabilities, *maps],
            gives_attention=True,
            max_batch=max_batch,
        ),
    ]


def _single_pass(model: Cbam) -> manifest_pb2.SinglePass:
    attention = []
    for number in range(1, len(block_sizes(model)) + 1):
        block = f"blocks.{number - 1}"
        channel, spatial = manifest_pb2.ATTENTION_ROLE_CHANNEL, manifest_pb2.ATTENTION_ROLE_SPATIAL
        meanings = (
            ("channel", channel, "M_c of equation 2: the factor of each channel."),
            ("spatial", spatial, "M_s of equation 3: the factor of each cell."),
        )
        for name, role, meaning in meanings:
            attention.append(manifest_pb2.PassAttention(output=f"{name}_{number}", role=role, block=block, meaning=meaning))
    size = manifest_pb2.PictureSize(width=IMAGE_SIZE, height=IMAGE_SIZE)
    picture = manifest_pb2.PictureInput(sizes=[size], fit=manifest_pb2.FIT_STRETCH, cell=1)
    return manifest_pb2.SinglePass(picture=picture, attention=attention)


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="CBAM: Convolutional Block Attention Module", authors="Woo et al.", year=2018, url="https://arxiv.org/abs/1807.06521"
    ),
    variants=cbam_variants,
    parts={
        "stem": "stem",
        **{str(number): f"stage {number // 3 + 1}" for number in range(9)},
        "channel": "channel attention",
        "spatial": "spatial attention",
        "output": "output",
    },
    single_pass=_single_pass,
)
