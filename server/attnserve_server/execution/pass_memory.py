# SPDX-License-Identifier: Apache-2.0
"""The interface between the runner of single-pass graphs and a device. ``pass_host.py`` and ``pass_cuda.py`` implement it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Shapes = tuple[tuple[int, ...], ...]
"""Shape of each input of a graph, in the manifest's order, without the batch axis."""


class PassCall(Protocol):
    """A graph with the memory of its inputs and outputs, for a batch of at most some size."""

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up covered its shapes and its batch."""
        ...

    @property
    def feeds(self) -> Mapping[str, Array]:
        """Host arrays, to be filled with the inputs: (at least the batch, ...)."""
        ...

    def run(self, count: int, names: Sequence[str]) -> Mapping[str, Array]:
        """Runs the graph on the first ``count`` entries; returns the named outputs, (count, ...), valid until the next run."""
        ...


class PassMemory(Protocol):
    """Sessions and buffers of the graphs of one variant; graphs are named by their index in the manifest."""

    def loading(self) -> Iterator[None]:
        """Loads the graphs, one session per yield."""
        ...

    def batches(self, most: int) -> Sequence[int]:
        """Returns the batches to warm up, the largest one first."""
        ...

    def warm(self, graph: int, shapes: Shapes, feeds: Mapping[str, Any], batch: int) -> None:
        """Runs a graph once, and keeps what later runs of this batch need.

        Args:
            graph: index of the graph.
            shapes: of its inputs.
            feeds: value of each input, for all requests of the batch.
            batch: number of requests.
        """
        ...

    def call(self, graph: int, shapes: Shapes, batch: int) -> PassCall:
        """Returns what was kept for these shapes and this batch, or makes it for one run."""
        ...
