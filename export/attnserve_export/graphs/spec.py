# SPDX-License-Identifier: Apache-2.0
"""What an architecture says of its graphs: a module to trace, and the names and axes of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnserve.v1 import manifest_pb2


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX file: ``inputs`` in the order of the module's arguments, None where it takes none."""

    file: str
    module: nn.Module
    inputs: Sequence[manifest_pb2.Tensor | None]
    outputs: Sequence[manifest_pb2.Tensor]
    max_rows_of_request: int = 0
    gives_attention: bool = False

    def describe(self) -> manifest_pb2.Graph:
        """The manifest's entry."""
        return manifest_pb2.Graph(file=self.file, inputs=[each for each in self.inputs if each is not None], outputs=self.outputs)


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """A variant's graphs, steps cheapest first."""

    name: str
    device: Any
    encode: GraphSpec
    steps: Sequence[GraphSpec]

    def describe(self) -> manifest_pb2.Variant:
        """The manifest's entry."""
        steps = [
            manifest_pb2.StepGraph(
                graph=step.describe(), max_rows_of_request=step.max_rows_of_request, gives_attention=step.gives_attention
            )
            for step in self.steps
        ]
        return manifest_pb2.Variant(name=self.name, device=self.device, encode=self.encode.describe(), steps=steps)


def tensor(name: str, dtype: Any, *axes: str) -> manifest_pb2.Tensor:
    """A tensor's declaration; an axis is a word or a decimal number."""
    return manifest_pb2.Tensor(name=name, dtype=dtype, axes=axes)
