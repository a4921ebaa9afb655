# SPDX-License-Identifier: Apache-2.0
"""Adds an int8 variant to a bundle, made from its fp32 graphs of any architecture."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.int8 import int8_graph

NAME, SOURCE = "int8", "fp32"


def add_int8_variant(
    manifest: manifest_pb2.Manifest, graphs: dict[str, onnx.ModelProto], is_bounded: Callable[[str], bool] = lambda name: False
) -> None:
    """Declares the variant before all others, so that "auto" selects it on a CPU, and appends its graphs.

    ``is_bounded`` is as for :func:`int8_graph`. The variant shares a graph with fp32 if that has no product worth quantising.
    """
    variant = manifest_pb2.Variant()
    variant.CopyFrom(next(each for each in manifest.variants if each.name == SOURCE and each.device == manifest_pb2.DEVICE_CPU))
    variant.name = NAME
    for graph in (variant.encode, *(step.graph for step in variant.steps)):
        rewritten = int8_graph(graphs[graph.file], is_bounded)
        if rewritten is not None:
            graph.file = graph.file.replace(".onnx", "_int8.onnx")
            graphs[graph.file] = rewritten
    others = list(manifest.variants)
    del manifest.variants[:]
    manifest.variants.extend([variant, *others])
