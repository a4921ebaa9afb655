# SPDX-License-Identifier: Apache-2.0
"""A model whose step graph raises for some sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attnserve_export.bundle_writer import write_bundle
from attnserve_server.bundle.loader import default_models
from tests.foreign import common, gru_luong

FAULTY, SOUND = gru_luong.MODEL_ID, "transformer-en-de"
POISON = "A dog runs."
"""Sources of exactly this many pieces make the graph raise."""


def plant(step: onnx.ModelProto, num_pieces: int) -> onnx.ModelProto:
    """Looks up a table of one entry, at an index far beyond it where any source has ``num_pieces`` pieces; adds the 0 to the logits."""
    graph = step.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(num_pieces, np.int64), "planted_length"),
            numpy_helper.from_array(np.array(1 << 20, np.int64), "planted_far"),
            numpy_helper.from_array(np.array(0, np.int64), "planted_near"),
            numpy_helper.from_array(np.zeros(1, np.float32), "planted_table"),
        ]
    )
    logits = next(node for node in graph.node if "logits" in node.output)
    logits.output[list(logits.output).index("logits")] = "sound_logits"
    graph.node.extend(
        [
            helper.make_node("Equal", ["source_length", "planted_length"], ["planted_is"]),
            helper.make_node("Where", ["planted_is", "planted_far", "planted_near"], ["planted_index"]),
            helper.make_node("Gather", ["planted_table", "planted_index"], ["planted_zeros"]),
            helper.make_node("ReduceSum", ["planted_zeros"], ["planted_zero"], keepdims=0),
            helper.make_node("Add", ["sound_logits", "planted_zero"], ["logits"]),
        ]
    )
    assert all(initializer.data_type != TensorProto.UNDEFINED for initializer in graph.initializer)
    return step


def write_models(models: Path) -> None:
    """Writes a repository of the faulty model and of a sound one."""
    manifest, graphs = gru_luong.describe(), gru_luong.build_graphs(gru_luong.build_module())
    step = manifest.variants[0].steps[0].graph.file
    num_pieces = len(common.tokenizer().encode(POISON)) + 1
    write_bundle(models / FAULTY / "1", manifest, {**graphs, step: plant(graphs[step], num_pieces)}, gru_luong.extra_files())
    shutil.copytree(default_models() / SOUND, models / SOUND)
