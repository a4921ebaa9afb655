# SPDX-License-Identifier: Apache-2.0
"""Runs a graph of a single-pass bundle, and its module, on the same inputs: both give all probabilities, and the attention.

A segmentation graph gives the best class of each pixel only. For the comparison its interpolated logits become a further output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.parity_sources import Array

PROBABILITIES, LOGITS = "probabilities", "logits"
Feeds = Mapping[str, Array]
Outputs = dict[str, Array]


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    """Returns a session on the CPU, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def with_logits(path: Path) -> onnx.ModelProto:
    """Returns a segmentation graph with its interpolated logits as the further output ``LOGITS``.

    Raises:
        ExportError: it does not interpolate logits once.
    """
    model = onnx.load(path)
    found = [node for node in model.graph.node if node.op_type == "Resize" and b"linear" in [each.s for each in node.attribute]]
    if len(found) != 1:
        raise ExportError(f"{path.name} has {len(found)} linear interpolations instead of one")
    model.graph.node.append(onnx.helper.make_node("Identity", [found[0].output[0]], [LOGITS]))
    model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
    return model


class PassRunner:
    """Runs one graph of a variant on the CPU.

    Args:
        folder: the bundle's.
        graph: of a variant.
        task: the model's.
        is_plain: whether the graph is run as it is; then a segmentation graph gives no probabilities.
    """

    def __init__(self, folder: Path, graph: manifest_pb2.PassGraph, task: Any, *, is_plain: bool = False) -> None:
        path = folder / graph.graph.file
        self.file = graph.graph.file
        self._is_segmentation = task == manifest_pb2.TASK_SEGMENTATION and not is_plain
        self.session = session(with_logits(path) if self._is_segmentation else path)
        self._inputs = [each.name for each in graph.graph.inputs]
        self._names = [each.name for each in self.session.get_outputs()]

    def run(self, feeds: Feeds) -> Outputs:
        """Returns all outputs, with ``PROBABILITIES``: (B, class), or (B, class, height, width)."""
        found = cast(list[Array], self.session.run(self._names, {name: feeds[name] for name in self._inputs}))
        outputs = dict(zip(self._names, found, strict=True))
        if self._is_segmentation:
            height, width = feeds["image"].shape[1:3]
            logits = torch.from_numpy(outputs.pop(LOGITS)[:, :, :height, :width])
            outputs[PROBABILITIES] = logits.softmax(1).numpy()
        return outputs


@torch.no_grad()
def reference(model: nn.Module, feeds: Feeds) -> Outputs:
    """Returns the module's probabilities and attention, under the names of the graph's outputs."""
    if "clip" in feeds:
        logits, weights = model(torch.from_numpy(feeds["clip"]))
        chosen = weights.numpy()[np.arange(len(logits))[:, None], feeds["query"]]
        return {PROBABILITIES: logits.softmax(-1).numpy(), "pairwise": chosen}
    image = torch.from_numpy(feeds["image"])
    if "size" not in feeds:
        logits, blocks = model(image)
        maps: Outputs = {PROBABILITIES: logits.softmax(-1).numpy()}
        for number, block in enumerate(blocks, 1):
            maps |= {f"channel_{number}": block.channel.numpy(), f"spatial_{number}": block.spatial.numpy()}
        return maps
    logits, attention = model(image, torch.from_numpy(mask_of(feeds)), give_attention=True)
    rows = attention.pairwise.numpy()[np.arange(len(image))[:, None], feeds["query"]]
    return {PROBABILITIES: logits.softmax(1).numpy(), "unary": attention.unary.numpy(), "pairwise": rows}


def mask_of(feeds: Feeds) -> Array:
    """Returns which pixels are of the pictures: bool (B, H, W)."""
    height, width = feeds["image"].shape[1:3]
    rows, columns = (np.arange(length) < feeds["size"][:, axis : axis + 1] for axis, length in enumerate((height, width)))
    mask: Array = rows[:, :, None] & columns[:, None, :]
    return mask


def stacked(declared: manifest_pb2.SinglePass, examples: Sequence[Array], rng: np.random.Generator) -> dict[str, Array]:
    """Returns the inputs of a graph for pictures or clips of the input's size.

    Args:
        declared: of the manifest.
        examples: uint8 (height, width, 3) or (frames, height, width, 3) each.
        rng: draws the queries.
    """
    if not declared.HasField("clip"):
        return {"image": np.stack(examples)}
    cells = declared.clip.cells
    query = rng.integers(0, cells.times * cells.rows * cells.columns, (len(examples), 16))
    return {"clip": np.stack(examples), "query": query}


def placed(pictures: Sequence[Array], width: int, height: int, cell: int, rng: np.random.Generator) -> dict[str, Array]:
    """Returns the inputs of a segmentation graph, for pictures that are scaled to fit an image and padded with noise.

    Args:
        pictures: uint8 (h, w, 3) each.
        width: of the image.
        height: of the image.
        cell: pixels of a cell, in each direction.
        rng: draws the padding and the queries.
    """
    image = rng.integers(0, 256, (len(pictures), height, width, 3)).astype(np.uint8)
    size = np.empty((len(pictures), 2), np.int64)
    for at, picture in enumerate(pictures):
        factor = min(width / picture.shape[1], height / picture.shape[0])
        size[at] = [max(1, round(side * factor)) for side in picture.shape[:2]]
        scaled = picture
        if tuple(size[at]) != picture.shape[:2]:
            target = int(size[at, 1]), int(size[at, 0])
            scaled = np.asarray(Image.fromarray(picture).resize(target, Image.Resampling.BICUBIC))
        image[at, : size[at, 0], : size[at, 1]] = scaled
    cells = -(-height // cell) * -(-width // cell)
    return {"image": image, "size": size, "query": rng.integers(0, cells, (len(pictures), 16))}
