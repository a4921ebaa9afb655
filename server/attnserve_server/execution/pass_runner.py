# SPDX-License-Identifier: Apache-2.0
"""Runs the graphs of a single-pass model on batches of requests with equal shapes: the cheapest graph that gives what they want."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnserve_server.bundle.loader import Bundle
from attnserve_server.bundle.single_pass import largest_batch
from attnserve_server.execution.pass_memory import PassMemory, Shapes
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.passes import PassPayload, PassTensor

log = logging.getLogger(__name__)


class BatchKey(NamedTuple):
    """What requests of one batch have in common."""

    graph: int
    """Index of the graph in the variant."""
    wants_attention: bool
    shapes: Shapes


class UnfitInputs(ValueError):
    """Inputs of a request that its graph does not take; the message names them."""


class PassRunner:
    """Chooses and runs the graphs of one bundle. Not thread-safe: one engine owns it, from one thread.

    Args:
        bundle: the model.
        max_batch: largest batch; 0 for the manifest's.
        make_memory: makes the device's memory; the graphs are loaded by :meth:`starting`.
    """

    def __init__(self, bundle: Bundle, max_batch: int, make_memory: Callable[[Bundle], PassMemory]) -> None:
        self.bundle, self._max_batch = bundle, max_batch
        self._memory = make_memory(bundle)
        self._graphs = [each.graph for each in bundle.variant.passes]
        self._attention = {each.output for each in bundle.manifest.single_pass.attention}

    def starting(self) -> Iterator[None]:
        """Loads the graphs, and runs each of them with every size and batch that is known beforehand; one part per yield."""
        yield from self._memory.loading()
        most_of: dict[int, int] = {}
        for wants in (False, True):
            if (graph := self._choose(wants_attention=wants)) is not None:
                most_of[graph] = max(most_of.get(graph, 0), self.max_batch(wants_attention=wants))
        for index, most in most_of.items():
            for sizes in self._known_sizes(index):
                shapes = self._shapes(index, sizes)
                feeds = {
                    tensor.name: _made_up(tensor.name, shape, sizes)
                    for tensor, shape in zip(self._graphs[index].inputs, shapes, strict=True)
                }
                for batch in self._memory.batches(most):
                    self._memory.warm(index, shapes, feeds, batch)
                    yield

    def max_batch(self, *, wants_attention: bool) -> int:
        """Returns the largest batch of requests that want attention, or of those that do not."""
        return largest_batch(self.bundle.variant, wants_attention=wants_attention, asked=self._max_batch)

    def key(self, payload: PassPayload) -> BatchKey:
        """Chooses the graph of a request, the first that gives what it wants, and checks that its inputs fit.

        Inputs that the graph does not have are ignored.

        Raises:
            UnfitInputs: they do not fit, or no graph gives attention.
        """
        graph = self._choose(wants_attention=payload.wants_attention)
        if graph is None:
            raise UnfitInputs("no graph gives attention")
        sizes: dict[str, int] = {}
        shapes = []
        for tensor in self._graphs[graph].inputs:
            given = payload.inputs.get(tensor.name)
            if given is None:
                raise UnfitInputs(f"no input {tensor.name}")
            axes = tensor.axes[1:]
            is_fit = len(given.shape) == len(axes) and all(
                size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size)) and size > 0
                for axis, size in zip(axes, given.shape, strict=True)
            )
            if not is_fit:
                raise UnfitInputs(f"input {tensor.name} has the shape {tuple(given.shape)}, the graph's is ({', '.join(axes)})")
            if len(given.data) != math.prod(given.shape) * NUMPY_TYPES[tensor.dtype].itemsize:
                raise UnfitInputs(f"input {tensor.name} of shape {tuple(given.shape)} has {len(given.data)} bytes")
            shapes.append(tuple(given.shape))
        return BatchKey(graph, payload.wants_attention, tuple(shapes))

    def run(self, key: BatchKey, payloads: Sequence[PassPayload]) -> tuple[list[dict[str, PassTensor]], bool]:
        """Runs a batch.

        Args:
            key: of all its requests.
            payloads: at least one.

        Returns:
            The outputs of each request, and whether the warm-up did not cover the shapes.

        Raises:
            RuntimeError: an output has not one entry for each request. ONNX Runtime's errors.
        """
        count, graph = len(payloads), self._graphs[key.graph]
        call = self._memory.call(key.graph, key.shapes, count)
        for tensor, shape in zip(graph.inputs, key.shapes, strict=True):
            feed, dtype = call.feeds[tensor.name], NUMPY_TYPES[tensor.dtype]
            for index, payload in enumerate(payloads):
                feed[index] = np.frombuffer(payload.inputs[tensor.name].data, dtype).reshape(shape)
        names = [tensor.name for tensor in graph.outputs if key.wants_attention or tensor.name not in self._attention]
        outputs = call.run(count, names)
        for name, value in outputs.items():
            if len(value) != count:
                raise RuntimeError(f"output {name} has {len(value)} entries for {count} requests")
        answers = [
            {name: PassTensor(value.shape[1:], value[index].tobytes()) for name, value in outputs.items()} for index in range(count)
        ]
        return answers, not call.is_warm

    def _choose(self, *, wants_attention: bool) -> int | None:
        passes = enumerate(self.bundle.variant.passes)
        return next((index for index, each in passes if each.gives_attention or not wants_attention), None)

    def _known_sizes(self, graph: int) -> list[dict[str, int]]:
        """The sizes of the named axes of a graph's inputs that the manifest declares; none if an axis is not among them."""
        named = {axis for tensor in self._graphs[graph].inputs for axis in tensor.axes[1:] if not axis.isdigit()}
        sizes = [{"height": each.height, "width": each.width} for each in self.bundle.manifest.single_pass.picture.sizes]
        if not named:
            return sizes[:1] or [{}]
        if not sizes or named - sizes[0].keys():
            log.info("%s is not warmed up: the sizes of its inputs are not declared", self._graphs[graph].file)
            return []
        return sizes

    def _shapes(self, graph: int, sizes: dict[str, int]) -> Shapes:
        return tuple(
            tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in tensor.axes[1:]) for tensor in self._graphs[graph].inputs
        )


def _made_up(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> Any:
    """Returns a value for the warm-up: a black picture that fills the image, and zeros for all else."""
    return [sizes["height"], sizes["width"]] if name == "size" and sizes else np.zeros(shape, np.uint8)
