# SPDX-License-Identifier: Apache-2.0
"""The declaration of an architecture's graphs: a module to trace, and the names and axes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2

BLOCK_WIDTHS = (100, 80, 128, 64)
"""Widths of the blocks in which :func:`best` looks first; one that divides the vocabulary is taken."""
FLOAT32, FLOAT16 = manifest_pb2.DATA_TYPE_FLOAT32, manifest_pb2.DATA_TYPE_FLOAT16
INT32, INT64, UINT8 = manifest_pb2.DATA_TYPE_INT32, manifest_pb2.DATA_TYPE_INT64, manifest_pb2.DATA_TYPE_UINT8


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX file: ``inputs`` in the order of the module's arguments, None for an argument that is not used."""

    file: str
    module: nn.Module
    inputs: Sequence[manifest_pb2.Tensor | None]
    outputs: Sequence[manifest_pb2.Tensor]
    max_rows_of_request: int = 0
    gives_attention: bool = False
    max_batch: int = 0
    """Of a single-pass model: the largest batch that is worth while."""
    block_rows: int = 0
    """K, if row r * K + j is one of request r; 0 for no such rule."""

    def describe(self) -> manifest_pb2.Graph:
        """The manifest's entry."""
        return manifest_pb2.Graph(file=self.file, inputs=[each for each in self.inputs if each is not None], outputs=self.outputs)


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """A variant's graphs, steps or passes in order of increasing cost: encode and steps of an iterative model, else passes."""

    name: str
    device: Any
    encode: GraphSpec | None = None
    steps: Sequence[GraphSpec] = ()
    passes: Sequence[GraphSpec] = ()

    @property
    def graphs(self) -> list[GraphSpec]:
        """All of them."""
        return [*([] if self.encode is None else [self.encode]), *self.steps, *self.passes]

    def describe(self) -> manifest_pb2.Variant:
        """The manifest's entry."""
        encode = None if self.encode is None else self.encode.describe()
        steps = [
            manifest_pb2.StepGraph(
                graph=step.describe(),
                max_rows_of_request=step.max_rows_of_request,
                gives_attention=step.gives_attention,
                block_rows=step.block_rows,
            )
            for step in self.steps
        ]
        passes = [
            manifest_pb2.PassGraph(graph=each.describe(), gives_attention=each.gives_attention, max_batch=each.max_batch)
            for each in self.passes
        ]
        return manifest_pb2.Variant(name=self.name, device=self.device, encode=encode, steps=steps, passes=passes)


def tensor(name: str, dtype: Any, *axes: str) -> manifest_pb2.Tensor:
    """Declares a tensor; an axis is a name or a decimal number."""
    return manifest_pb2.Tensor(name=name, dtype=dtype, axes=axes)


@dataclass(frozen=True, slots=True)
class Graphs:
    """The parts of a bundle's manifest that an architecture provides, and its graphs."""

    paper: manifest_pb2.Paper
    variants: Callable[[Any, list[manifest_pb2.State]], list[VariantSpec]]
    """Module and declared state -> all variants, preferred ones first."""
    parts: Mapping[str, str]
    """Name of a module -> its part of the paper; see :mod:`attnserve_export.graphs.parts`."""
    states: Callable[[Any, int, int], list[manifest_pb2.State]] = lambda model, max_source, max_target: []
    """Module, maximum of source tokens (the end symbol not counted), maximum of target tokens -> the declared state."""
    restore: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda stored: stored
    """Values of the graphs, by name -> at least all parameters of the module."""
    is_within_one: Callable[[str], bool] = lambda name: False
    """Whether the input or output of this name lies in [-1, 1]; its products are then cheap in int8."""
    attention: Callable[[Any], manifest_pb2.AttentionOutput] | None = None
    """Module -> the meaning of its attention; None if it has none, or is of a single-pass model."""
    single_pass: Callable[[Any], manifest_pb2.SinglePass] | None = None
    """Module -> input and attention of a single-pass model, without its labels; None for an iterative model."""


def source_inputs() -> list[manifest_pb2.Tensor | None]:
    """The inputs of an encode graph for text."""
    return [tensor("source", INT64, "request", "source"), tensor("source_length", INT32, "request")]


def scores(logits: Tensor, candidates: int, *, with_log_probs: bool = True) -> list[Tensor]:
    """Returns a step's scores: logits (S, V), log-probabilities, and, if ``candidates``, the best ones with their tokens."""
    if not with_log_probs:
        return [logits]
    log_probs = logits.log_softmax(-1)
    return [logits, log_probs, *(log_probs.topk(candidates, dim=-1) if candidates else ())]


def score_outputs(vocab_size: int, candidates: int, *, with_log_probs: bool = True) -> list[manifest_pb2.Tensor]:
    """Declares the outputs of :func:`scores`."""
    names = ("logits", "log_probs") if with_log_probs else ("logits",)
    outputs = [tensor(name, FLOAT32, "row", str(vocab_size)) for name in names]
    return [*outputs, *(best_outputs(candidates) if candidates else ())]


def best(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns what ``topk`` returns, the ``count`` largest values of each row of (S, V) and their indices, in two levels.

    The best values are in the ``count`` blocks of a row with the largest maxima. Of equal values those with lower indices come
    first, as in ONNX's TopK.
    """
    width = next((width for width in BLOCK_WIDTHS if values.shape[-1] % width == 0 and values.shape[-1] // width >= count), 0)
    if not width:
        largest, indices = values.topk(count, dim=-1)
        return largest, indices
    blocks = values.unflatten(-1, (-1, width))  # (S, V / width, width)
    chosen = blocks.amax(-1).topk(count, dim=-1).indices.topk(count, dim=-1, largest=False).values  # in the order of the indices
    candidates = torch.onnx.ops.symbolic(
        "GatherND", [blocks, chosen.unsqueeze(-1)], {"batch_dims": 1}, dtype=values.dtype, shape=(values.shape[0], count, width)
    )
    largest, places = candidates.flatten(1).topk(count, dim=-1)
    block = torch.onnx.ops.symbolic("Div", [places, torch.tensor(width)], dtype=torch.int64, shape=places.shape)
    return largest, places + width * (chosen.gather(1, block) - block)


def best_outputs(count: int) -> list[manifest_pb2.Tensor]:
    """Declares the outputs of :func:`best` of log-probabilities."""
    return [tensor("top_log_probs", FLOAT32, "row", str(count)), tensor("top_tokens", INT64, "row", str(count))]
