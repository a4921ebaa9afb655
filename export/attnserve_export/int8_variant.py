# SPDX-License-Identifier: Apache-2.0
"""Adds an int8 variant to a bundle, made from its fp32 graphs of any architecture."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.int8 import int8_graph
from attnserve_export.graphs.products import GraphIndex
from attnserve_export.graphs.reach import Reach, Reaches

NAME, SOURCE = "int8", "fp32"


def add_int8_variant(
    manifest: manifest_pb2.Manifest, graphs: dict[str, onnx.ModelProto], is_within_one: Callable[[str], bool] = lambda name: False
) -> None:
    """Declares the variant before all others, so that "auto" selects it on a CPU, and appends its graphs.

    ``is_within_one`` says whether an input or output of this name lies in [-1, 1]. The variant shares a graph with fp32 if that has
    no product worth quantising.
    """
    variant = manifest_pb2.Variant()
    variant.CopyFrom(next(each for each in manifest.variants if each.name == SOURCE and each.device == manifest_pb2.DEVICE_CPU))
    variant.name = NAME
    files = [variant.encode.file, *(step.graph.file for step in variant.steps)]
    reach = reach_of_states(manifest, [graphs[file].graph for file in files], is_within_one)
    for graph in (variant.encode, *(step.graph for step in variant.steps)):
        rewritten = int8_graph(graphs[graph.file], reach)
        if rewritten is not None:
            graph.file = graph.file.replace(".onnx", "_int8.onnx")
            graphs[graph.file] = rewritten
    others = list(manifest.variants)
    del manifest.variants[:]
    manifest.variants.extend([variant, *others])


def reach_of_states(manifest: manifest_pb2.Manifest, graphs: list[onnx.GraphProto], is_within_one: Callable[[str], bool]) -> Reach:
    """Returns the bounds of the graphs' inputs and outputs; those of the states are proven by induction.

    The first graph encodes, the others are steps. A state starts as the encoder's output, or empty. Its bound is that of what a
    step makes of such states; it holds if steps make nothing larger of states within the bounds, else there is none.
    """
    bounds: dict[str, float] = {}

    def reach(name: str) -> float:
        return 1.0 if is_within_one(name) else bounds.get(name, math.inf)

    encode, *steps = [Reaches(GraphIndex(graph), reach) for graph in graphs]

    def after_a_step() -> dict[str, float]:
        return {
            state.name: max([bounds[state.name], *(step.of(state.step_output) for step in steps if state.step_output)])
            for state in manifest.states
        }

    bounds |= {each.name: encode.of(each.encode_output) if each.encode_output else 0.0 for each in manifest.states}
    bounds |= after_a_step()
    while larger := [name for name, value in after_a_step().items() if value > bounds[name]]:
        bounds |= dict.fromkeys(larger, math.inf)
    return reach
