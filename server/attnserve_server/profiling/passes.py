# SPDX-License-Identifier: Apache-2.0
"""Profiles a graph of a single-pass model, with and without its attention outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.session import NUMPY_TYPES, NodeTimes, make_session, node_times
from attnserve_server.profiling.measure import OTHER, Profile, added_up, median_seconds


@dataclass(frozen=True, slots=True)
class PassWorkload:
    """The run to profile.

    Attributes:
        images: of the batch.
        size: width and height of the input; None for the first size of the bundle.
        wants_attention: whether the attention outputs are computed.
    """

    images: int = 1
    size: tuple[int, int] | None = None
    wants_attention: bool = False


def profile_pass(bundle: Bundle, workload: PassWorkload, num_runs: int) -> Profile:
    """Profiles the graph that the server would choose, on images of noise that fill the input.

    Raises:
        RuntimeError: no graph of the variant gives attention, or the graph does not take this size.
    """
    chosen = next((each for each in bundle.variant.passes if each.gives_attention or not workload.wants_attention), None)
    if chosen is None:
        raise RuntimeError(f"no graph of {bundle.manifest.model_id} gives attention")
    feeds, path = feeds_of(bundle, chosen.graph, workload), bundle.folder / chosen.graph.file
    unprofiled = make_session(path, "cpu")
    seconds = median_seconds(lambda: unprofiled.run(None, feeds), num_runs)
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(path, "cpu", profile=Path(folder))
        for _ in range(num_runs):
            session.run(None, feeds)
        return added_up(chosen.graph.file, seconds, with_parts(node_times(session)))


def with_parts(nodes: Iterable[NodeTimes]) -> list[NodeTimes]:
    """Gives each node that ONNX Runtime has made the part of the node that ran before it.

    These nodes convert the layout of what that node made, or are a convolution fused with the activation that it was named after.

    Args:
        nodes: in the order in which they ran.
    """
    found, part = list[NodeTimes](), OTHER
    for node in nodes:
        own, slash, _ = node.name.partition("/")
        part = own if slash else part
        found.append(node if slash else NodeTimes(f"{part}/{node.name}", node.operator, node.seconds))
    return found


def feeds_of(bundle: Bundle, graph: manifest_pb2.Graph, workload: PassWorkload) -> dict[str, Any]:
    """The inputs of a graph: images of noise, their whole size, and the first cells as queries.

    Raises:
        RuntimeError: the graph does not take this size, or has an input without a reserved name.
    """
    first = bundle.manifest.single_pass.picture.sizes[0]
    width, height = workload.size or (first.width, first.height)
    sizes: Mapping[str, int] = {"batch": workload.images, "height": height, "width": width}
    feeds: dict[str, Any] = {}
    for tensor in graph.inputs:
        if tensor.name not in ("image", "size", "query"):
            raise RuntimeError(f"{graph.file}: the input {tensor.name} is unknown")
        shape = [int(axis) if axis.isdigit() else sizes.get(axis, 1) for axis in tensor.axes]
        if tensor.name == "image":
            if shape[1:3] != [height, width]:
                raise RuntimeError(f"{graph.file} takes images of {shape[2]}x{shape[1]}, not {width}x{height}")
            value: Any = np.random.default_rng(0).integers(0, 256, shape)
        else:
            value = np.broadcast_to([height, width] if tensor.name == "size" else np.arange(shape[1]), shape)
        feeds[tensor.name] = value.astype(NUMPY_TYPES[tensor.dtype])
    return feeds
