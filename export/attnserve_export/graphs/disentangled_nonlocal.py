# SPDX-License-Identifier: Apache-2.0
"""The graphs of Disentangled Non-local: pixels to the class and the confidence of each pixel, with or without the attention.

A picture lies in the upper left corner of its image; ``size`` says how much of the image it takes, the rest is padding. The mask is
computed from it, so pictures of different sizes share a batch. Inside the graph, height and width are rounded up to multiples of
16 pixels with further padding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import FLOAT32, INT64, UINT8, Graphs, GraphSpec, VariantSpec, tensor
from attnserve_export.graphs.upsampled import UpsampledClasses
from attnserve_export.layers.efficientnet import DEVIATION, MEAN, InvertedResidual, SameConv
from attnserve_export.models.disentangled_nonlocal import LEVEL_STRIDES, STRIDE, DisentangledNonLocal, NonLocalBlock, clamped

SIZES = ((480, 360), (360, 480), (480, 272), (480, 480))
"""Width and height of the images that the bundle declares."""
NUM_QUERIES = 16
CPU_BATCH, CUDA_BATCH = 1, 8
"""Largest batches. On a CPU an image of 480 × 360 takes 26 ms alone, 31 in batches of 2, 35 in batches of 4."""
NORMS = {"reduce": "norm", "project": "norm"}
"""Convolutions with the normalisations that a bundle's module has folded into them."""
_LEVELS = (1, 2, 4)
_EXCLUDED = -30000.0
"""What is added to the score of a cell of padding; 16-bit floating point can represent it."""


class SegmentGraph(nn.Module):
    """The network of :class:`DisentangledNonLocal` with its norms folded, and the choice of the classes.

    Args:
        model: the module, with its block; its parameters are shared.
    """

    def __init__(self, model: DisentangledNonLocal) -> None:
        super().__init__()
        self.model = model
        self.dtype = model.classify.weight.dtype
        self.upsampled = UpsampledClasses(model.config.num_classes, LEVEL_STRIDES[0])

    def forward(self, image: Tensor, size: Tensor, query: Tensor | None = None) -> tuple[Tensor, ...]:
        """Segments a batch.

        Args:
            image: uint8 (B, H, W, 3).
            size: int64 (B, 2), height and width of the picture inside the image.
            query: int64 (B, 16), cells of the grid of the whole image; None without attention.

        Returns:
            Classes and confidences, uint8 (B, H, W) each; with attention also the unary weights, float32 (B, N), and the pairwise
            weights of the queries, float32 (B, 16, N).
        """
        height, width = image.shape[1:3]
        # ONNX Runtime's CUDA provider pads no uint8: the image would go through the CPU, and the graph could not be captured.
        pixels = functional.pad(image.permute(0, 3, 1, 2).to(self.dtype), (0, -width % STRIDE, 0, -height % STRIDE))
        masks = Masks(pixels, size, self.dtype)
        levels = self._trunk(pixels, masks)
        coarse = functional.relu(self.model.reduce(levels[2])) * masks.at(16)
        attended, unary, pairwise = attend(cast(NonLocalBlock, self.model.block), coarse, masks.at(16))
        logits = self._decode([levels[0], levels[1], attended], masks)
        logits = clamped(logits, *masks.axes(LEVEL_STRIDES[0]))
        classes, confidence = (each[:, :height, :width] for each in self.upsampled(logits))
        if query is None:
            return classes, confidence
        rows = pairwise.gather(1, query.unsqueeze(2).expand(-1, -1, pairwise.shape[2]))
        return classes, confidence, unary.squeeze(1).float(), rows.float()

    def _trunk(self, pixels: Tensor, masks: Masks) -> list[Tensor]:
        """As :meth:`EfficientNetLite0.levels`, for (B, 3, H, W) of multiples of 16: outputs at strides 4, 8 and 16."""
        encoder = self.model.encoder
        x = (pixels - MEAN) / DEVIATION * masks.at(1)
        x = functional.relu6(convolved(encoder.stem, x))
        stride, found = 2, []
        for index, block in enumerate(cast(Sequence[InvertedResidual], encoder.blocks)):
            inner = x if block.expand is None else functional.relu6(block.expand.conv(x))
            inner = functional.relu6(convolved(block.depthwise, inner * masks.at(stride)))
            projected = block.project.conv(inner)
            x = x + projected if block.has_shortcut else projected
            stride *= block.depthwise.stride
            if index in encoder.last_blocks:
                found.append(x)
        return [found[level] for level in _LEVELS]

    def _decode(self, levels: Sequence[Tensor], masks: Masks) -> Tensor:
        """Returns the logits (B, classes, h, w) at stride 4."""
        model = self.model
        x = model.mix_16(levels[2] * masks.at(16))
        x = model.mix_8(torch.cat((_doubled(x), levels[1]), 1) * masks.at(8))
        x = model.mix_4(torch.cat((_doubled(x), levels[0]), 1) * masks.at(4))
        logits: Tensor = model.classify(x)
        return logits


class Masks:
    """For each stride the cells that contain a pixel of the picture, (B, 1, h, w), 1 or 0."""

    def __init__(self, pixels: Tensor, size: Tensor, dtype: torch.dtype) -> None:
        self._size, self._dtype = size, dtype
        self._shape = pixels.shape[2:]
        self._axes: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: dict[int, Tensor] = {}

    def axes(self, stride: int) -> tuple[Tensor, Tensor]:
        """Rows (B, 1, h, 1) and columns (B, 1, 1, w) of a level, bool; height and width are multiples of its stride."""
        if stride not in self._axes:
            rows, columns = (
                torch.arange(length // stride) * stride < self._size[:, axis : axis + 1] for axis, length in enumerate(self._shape)
            )
            self._axes[stride] = rows[:, None, :, None], columns[:, None, None, :]
        return self._axes[stride]

    def at(self, stride: int) -> Tensor:
        """The mask of a level; height and width are multiples of its stride."""
        if stride not in self._made:
            rows, columns = self.axes(stride)
            self._made[stride] = (rows & columns).to(self._dtype)
        return self._made[stride]


def convolved(layer: SameConv, x: Tensor) -> Tensor:
    """As :class:`SameConv`, for an even height and width, without a condition on the shape, which a dynamic graph cannot have."""
    size, stride, conv = layer.size, layer.stride, layer.conv
    if stride == 1:
        return functional.conv2d(x, conv.weight, conv.bias, padding=size // 2, groups=conv.groups)
    before, after = (size - 2) // 2, (size - 1) // 2
    return functional.conv2d(
        functional.pad(x, (before, after, before, after)), conv.weight, conv.bias, stride=stride, groups=conv.groups
    )


def attend(block: NonLocalBlock, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The disentangled block with masked whitening and masked attention, see :meth:`NonLocalBlock.forward`.

    Args:
        block: of the module.
        x: (B, C, h, w).
        mask: (B, 1, h, w).

    Returns:
        The block's output (B, C, h, w); the unary weights (B, 1, N); and the pairwise weights (B, N, N).
    """
    assert block.unary is not None
    cells, valid = x.flatten(2), mask.flatten(2)  # (B, C, N), (B, 1, N)
    share = valid / valid.sum(2, keepdim=True)
    excluded = (1 - valid) * _EXCLUDED
    queries, keys, values = block.query(cells), block.key(cells), block.value(cells)  # (B, D, N)
    queries, keys = (each - (each * share).sum(2, keepdim=True) for each in (queries, keys))
    queries = queries * (1 / math.sqrt(queries.shape[1]))
    pairwise = (queries.transpose(1, 2) @ keys + excluded).softmax(-1)
    unary = (block.unary(cells) + excluded).softmax(-1)
    rows = values.transpose(1, 2)
    read = pairwise @ rows + unary @ rows
    return x + block.output(read.transpose(1, 2)).unflatten(2, x.shape[2:]), unary, pairwise


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def variants(model: DisentangledNonLocal, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU; fp16 and fp32 for CUDA. The fp32 graphs are the same files."""
    del states
    half = copy.deepcopy(model).half()
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, passes=_passes(model, "", CPU_BATCH)),
        VariantSpec("fp16", manifest_pb2.DEVICE_CUDA, passes=_passes(half, "_fp16", CUDA_BATCH)),
        VariantSpec("fp32", manifest_pb2.DEVICE_CUDA, passes=_passes(model, "", CUDA_BATCH)),
    ]


def _passes(model: DisentangledNonLocal, suffix: str, max_batch: int) -> list[GraphSpec]:
    image, size = tensor("image", UINT8, "batch", "height", "width", "3"), tensor("size", INT64, "batch", "2")
    query = tensor("query", INT64, "batch", str(NUM_QUERIES))
    maps = [tensor(name, UINT8, "batch", "height", "width") for name in ("classes", "confidence")]
    attention = [
        tensor("unary", FLOAT32, "batch", "cell"),
        tensor("pairwise", FLOAT32, "batch", str(NUM_QUERIES), "cell"),
    ]
    plain = GraphSpec(f"segment{suffix}.onnx", SegmentGraph(model), [image, size, None], maps, max_batch=max_batch)
    attended = GraphSpec(
        f"segment_attention{suffix}.onnx",
        SegmentGraph(model),
        [image, size, query],
        [*maps, *attention],
        gives_attention=True,
        max_batch=max_batch,
    )
    return [plain, attended]


def _single_pass(model: DisentangledNonLocal) -> manifest_pb2.SinglePass:
    del model
    sizes = [manifest_pb2.PictureSize(width=width, height=height) for width, height in SIZES]
    attention = [
        manifest_pb2.PassAttention(
            output="unary",
            role=manifest_pb2.ATTENTION_ROLE_UNARY,
            block="block",
            meaning="omega_u of the paper: the weight of each cell that all cells share.",
        ),
        manifest_pb2.PassAttention(
            output="pairwise",
            role=manifest_pb2.ATTENTION_ROLE_PAIRWISE,
            block="block",
            meaning="omega_p of the paper: the whitened pairwise weights of a query cell over all cells.",
        ),
    ]
    picture = manifest_pb2.PictureInput(sizes=sizes, fit=manifest_pb2.FIT_PAD, cell=STRIDE)
    return manifest_pb2.SinglePass(picture=picture, attention=attention)


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Disentangled Non-Local Neural Networks", authors="Yin et al.", year=2020, url="https://arxiv.org/abs/2006.06668"
    ),
    variants=variants,
    parts={
        "encoder": "trunk",
        "reduce": "trunk",
        "unary": "unary",
        "query": "pairwise",
        "key": "pairwise",
        "value": "pairwise",
        "output": "pairwise",
        "mix_16": "decoder",
        "mix_8": "decoder",
        "mix_4": "decoder",
        "classify": "decoder",
        "upsampled": "decoder",
    },
    single_pass=_single_pass,
)
