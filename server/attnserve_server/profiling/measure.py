# SPDX-License-Identifier: Apache-2.0
"""Runs a bundle's graphs as a worker does, with and without ONNX Runtime's profiler, and sums the times of its nodes.

The first half of a node's name, set by export, is its part of the paper: "cross-attention/MatMul_17".
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.factory import make_profiled_runner, make_runner
from attnserve_server.execution.runner import StepInputs
from attnserve_server.execution.session import NUMPY_TYPES, NodeTimes, make_session, node_times

_FUSED = "fused "
"""Prefix of the names of nodes that ONNX Runtime has fused."""
OTHER = "other"
"""Part of nodes without a part in their name, which ONNX Runtime has added."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The step to profile.

    Attributes:
        rows: rows of the step.
        beam_size: rows per request; the last request may have fewer.
        source_tokens: length of each source.
        position: number of target tokens before the step, in each row.
        wants_attention: whether attention is computed.
    """

    rows: int = 32
    beam_size: int = 1
    source_tokens: int = 16
    position: int = 12
    wants_attention: bool = False

    def inputs(self) -> StepInputs:
        """Returns the step's inputs."""
        of_row = [row // self.beam_size for row in range(self.rows)]
        members = [[row for row in range(self.rows) if of_row[row] == request] for request in range(of_row[-1] + 1)]
        lengths = [self.source_tokens] * len(members)
        return StepInputs([5] * self.rows, [self.position] * self.rows, of_row, members, lengths, self.wants_attention)


@dataclass(frozen=True, slots=True)
class Share:
    """Total time per run, in seconds, of the nodes of one part or operator, and their number."""

    name: str
    seconds: float
    num_nodes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of a graph.

    Attributes:
        graph: file of the graph.
        seconds: median of a run without the profiler, including the server's work before and after it.
        parts: times by part of the paper, longest first.
        operators: times by operator, longest first.
    """

    graph: str
    seconds: float
    parts: list[Share]
    operators: list[Share]

    @property
    def node_seconds(self) -> float:
        """Total time of all nodes per run."""
        return sum(share.seconds for share in self.parts)


def profile_step(bundle: Bundle, workload: Workload, num_runs: int) -> Profile:
    """Profiles the step graph that the server would choose.

    Raises:
        RuntimeError: no graph of the variant fits the workload.
    """
    inputs = workload.inputs()
    unprofiled = make_runner(bundle, workload.rows)
    unprofiled.start()
    seconds = median_seconds(lambda: unprofiled.step(inputs), num_runs)
    with tempfile.TemporaryDirectory() as folder:
        runner = make_profiled_runner(bundle, workload.rows, Path(folder))
        runner.start()
        for _ in range(num_runs):
            runner.step(inputs)
        chosen = runner.choose(inputs)
        return added_up(chosen.declared.graph.file, seconds, node_times(chosen.session))


def profile_encode(bundle: Bundle, num_sources: int, source_tokens: int, num_runs: int) -> Profile:
    """Profiles the encode graph on a group of sources of one length (or of images of its input size)."""
    graph, image = bundle.variant.encode, bundle.manifest.image
    values = {
        "source": np.full((num_sources, source_tokens), 5),
        "source_length": np.full(num_sources, source_tokens),
        "image": np.zeros((num_sources, image.height, image.width, 3)),
    }
    feeds = {tensor.name: values[tensor.name].astype(NUMPY_TYPES[tensor.dtype]) for tensor in graph.inputs}
    unprofiled = make_session(bundle.folder / graph.file, "cpu")
    seconds = median_seconds(lambda: unprofiled.run(None, feeds), num_runs)
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(bundle.folder / graph.file, "cpu", profile=Path(folder))
        for _ in range(num_runs):
            session.run(None, feeds)
        return added_up(graph.file, seconds, node_times(session))


def median_seconds(run: Callable[[], object], num_runs: int) -> float:
    """The median time of a run, in seconds; one run before them does not count."""
    run()
    seconds = []
    for _ in range(num_runs):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def added_up(graph: str, seconds: float, nodes: list[NodeTimes]) -> Profile:
    """Sums the times of nodes by part and by operator.

    Args:
        graph: file of the graph.
        seconds: of a run without the profiler.
        nodes: of all runs with the profiler.
    """
    return Profile(graph, seconds, _shares(nodes, _part), _shares(nodes, lambda node: node.operator))


def _part(node: NodeTimes) -> str:
    return node.name.partition("/")[0].removeprefix(_FUSED) if "/" in node.name else OTHER


def _shares(nodes: list[NodeTimes], kind: Callable[[NodeTimes], str]) -> list[Share]:
    groups: dict[str, list[float]] = {}
    for node in nodes:
        groups.setdefault(kind(node), []).append(statistics.median(node.seconds))
    return sorted((Share(name, sum(each), len(each)) for name, each in groups.items()), key=lambda share: -share.seconds)
