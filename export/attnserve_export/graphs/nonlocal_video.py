# SPDX-License-Identifier: Apache-2.0
"""The graphs of the Non-local video classifier: a clip to the probabilities of its classes, with or without attention."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import FLOAT32, INT64, UINT8, Graphs, GraphSpec, VariantSpec, tensor
from attnserve_export.models.nonlocal_video import FRAME_SIZE, FRAMES, TIME_POOL, NonlocalVideo, grid

NUM_QUERIES = 16
CPU_BATCH, CUDA_BATCH = 1, 8
"""Largest batches. On a CPU, clips of a batch take as long together as one after the other."""
NORMS = {"reduce": "norm", "output": "norm"}
LEADING_NORMS = {"input_norm": "reduce"}
"""Normalisations that a bundle's module has folded into the linear layers before them, and after them."""
DISTRIBUTIONS = ("gaussian", "embedded_gaussian")
"""Pairwise functions whose weights are a distribution, as a bundle's pairwise attention must be."""
FIRST_FRAME = 2
"""The frame of the first motion feature: a feature takes the change from the frame before it, and the change of that change."""


class ClassifyClipGraph(nn.Module):
    """The network of :class:`NonlocalVideo` with its norms folded, the softmax, and the choice of the weights' rows.

    Args:
        model: the module, with its block; its parameters are shared.
    """

    def __init__(self, model: NonlocalVideo) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor, query: Tensor | None = None) -> tuple[Tensor, ...]:
        """Classifies a batch.

        Args:
            clip: uint8 (B, T, H, W, 3).
            query: int64 (B, 16), cells in the order time, row, column; None without attention.

        Returns:
            Probabilities, float32 (B, classes); with attention also the weights of the queries' cells, float32 (B, 16, N).
        """
        logits, weights = self.model(clip)
        probabilities = logits.float().softmax(-1)
        if query is None:
            return (probabilities,)
        rows = weights.gather(1, query.unsqueeze(2).expand(-1, -1, weights.shape[2]))
        return probabilities, rows.float()


def nonlocal_video_variants(model: NonlocalVideo, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU; fp16 and fp32 for CUDA. The fp32 graphs are the same files."""
    del states
    half = copy.deepcopy(model).half()
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, passes=_passes(model, "", CPU_BATCH)),
        VariantSpec("fp16", manifest_pb2.DEVICE_CUDA, passes=_passes(half, "_fp16", CUDA_BATCH)),
        VariantSpec("fp32", manifest_pb2.DEVICE_CUDA, passes=_passes(model, "", CUDA_BATCH)),
    ]


def _passes(model: NonlocalVideo, suffix: str, max_batch: int) -> list[GraphSpec]:
    times, rows, columns = grid()
    side, cells, queries = str(FRAME_SIZE), str(times * rows * columns), str(NUM_QUERIES)
    clip, query = tensor("clip", UINT8, "batch", str(FRAMES), side, side, "3"), tensor("query", INT64, "batch", queries)
    probabilities = tensor("probabilities", FLOAT32, "batch", str(model.config.num_classes))
    pairwise = tensor("pairwise", FLOAT32, "batch", queries, cells)
    module = ClassifyClipGraph(model)
    return [
        GraphSpec(f"classify{suffix}.onnx", module, [clip, None], [probabilities], max_batch=max_batch),
        GraphSpec(
            f"classify_attention{suffix}.onnx",
            module,
            [clip, query],
            [probabilities, pairwise],
            gives_attention=True,
            max_batch=max_batch,
        ),
    ]


def _single_pass(model: NonlocalVideo) -> manifest_pb2.SinglePass:
    """Raises ``ValueError`` if the weights of the pairwise function are no distribution."""
    if model.config.pairwise not in DISTRIBUTIONS:
        raise ValueError(f"a bundle's pairwise function is {' or '.join(DISTRIBUTIONS)}, not {model.config.pairwise}")
    times, rows, columns = grid()
    attention = manifest_pb2.PassAttention(
        output="pairwise",
        role=manifest_pb2.ATTENTION_ROLE_PAIRWISE,
        block="head.block",
        meaning="f(x_i, x_j) / C(x) of equation 1: the weight of each cell j in the sum of the query's cell i.",
    )
    cells = manifest_pb2.ClipCells(times=times, rows=rows, columns=columns, first_frame=FIRST_FRAME, frames=TIME_POOL)
    size = manifest_pb2.PictureSize(width=FRAME_SIZE, height=FRAME_SIZE)
    clip = manifest_pb2.ClipInput(frames=FRAMES, size=size, sampling=manifest_pb2.FRAME_SAMPLING_EVEN, cells=cells)
    return manifest_pb2.SinglePass(clip=clip, attention=[attention])


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Non-local Neural Networks", authors="Wang et al.", year=2018, url="https://arxiv.org/abs/1711.07971"
    ),
    variants=nonlocal_video_variants,
    parts={
        "trunk": "trunk",
        "reduce": "reduction",
        "block": "non-local block",
        "classify": "output",
    },
    single_pass=_single_pass,
)
