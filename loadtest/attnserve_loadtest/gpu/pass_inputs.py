# SPDX-License-Identifier: Apache-2.0
"""Inputs of single-pass models, made by what the manifest declares: a picture, a clip, or a latent vector and a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.engine.worker.single_pass.golden import golden_groups
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.passes import PassPayload, PassTensor

PIXELS = ("image", "clip")
"""Inputs of pixels, uint8 (..., H, W, 3)."""
DRAWN = ("latent", "label")
"""Inputs that are drawn at random."""


def sizes_of(bundle: Bundle) -> list[tuple[int, int]]:
    """Width and height of each input picture, of the frames of an input clip, or of the generated images."""
    declared = bundle.manifest.single_pass
    if declared.picture.sizes:
        return [(each.width, each.height) for each in declared.picture.sizes]
    one = declared.clip.size if declared.HasField("clip") else declared.generated
    return [(one.width, one.height)]


def made(bundle: Bundle, size: tuple[int, int], seed: int, *, wants_attention: bool) -> PassPayload:
    """A request whose picture or clip is noise that fills the input, and whose latent vector, class and queries are drawn.

    Args:
        bundle: the model, with the variant that is asked.
        size: one of :func:`sizes_of`.
        seed: of the random numbers.
        wants_attention: whether the inputs of the graph with attention are made.

    Raises:
        ValueError: the graph has an input of another name.
    """
    rng = np.random.default_rng(seed)
    graph = next(each.graph for each in bundle.variant.passes if each.gives_attention or not wants_attention)
    inputs = {each.name: _tensor(_drawn(bundle, each, size, rng), each) for each in graph.inputs}
    return PassPayload(inputs, wants_attention)


def varied(bundle: Bundle, payload: PassPayload, seed: int) -> PassPayload:
    """The same request with other content: a picture or clip mirrored from top to bottom, a latent vector and a class drawn anew.

    With padding, a picture that is mirrored from left to right would lie elsewhere.
    """
    fresh = made(bundle, sizes_of(bundle)[0], seed, wants_attention=payload.wants_attention).inputs
    inputs = payload.inputs | {name: fresh[name] for name in DRAWN if name in payload.inputs}
    for name in PIXELS:
        if name in inputs:
            inputs[name] = _mirrored(inputs[name], inputs.get("size"))
    return PassPayload(inputs, payload.wants_attention)


def payloads_of(bundle: Bundle) -> list[PassPayload]:
    """The inputs of the golden answers, for each graph that they suffice for: without attention, and with it."""
    wishes = sorted({each.gives_attention for each in bundle.variant.passes})
    return [PassPayload(each.payload.inputs, wish) for wish in wishes for each in golden_groups(bundle)[0]]


def _mirrored(pixels: PassTensor, size: PassTensor | None) -> PassTensor:
    """Mirrors the rows that are inside the padding."""
    values = np.frombuffer(pixels.data, np.uint8).reshape(pixels.shape).copy()
    inside = values.shape[-3] if size is None else int(np.frombuffer(size.data, np.int64)[0])
    values[..., :inside, :, :] = values[..., :inside, :, :][..., ::-1, :, :]
    return PassTensor(pixels.shape, values.tobytes())


def _tensor(value: npt.NDArray[Any], declared: manifest_pb2.Tensor) -> PassTensor:
    return PassTensor(value.shape, value.astype(NUMPY_TYPES[declared.dtype]).tobytes())


def _drawn(bundle: Bundle, declared: manifest_pb2.Tensor, size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[Any]:
    """A value of an input, by its name."""
    single_pass, named = (
        bundle.manifest.single_pass,
        {"width": size[0], "height": size[1], "frame": bundle.manifest.single_pass.clip.frames},
    )
    shape = [int(axis) if axis.isdigit() else named[axis] for axis in declared.axes[1:]]
    match declared.name:
        case "image" | "clip":
            return rng.integers(0, 256, shape)
        case "size":
            return np.array([size[1], size[0]])
        case "query":
            return rng.integers(0, _num_cells(single_pass, size), shape)
        case "latent":
            return rng.standard_normal(shape)
        case "label":
            return rng.integers(0, len(single_pass.labels), shape)
    raise ValueError(f"{bundle.manifest.model_id}: an input named {declared.name} cannot be made")


def _num_cells(declared: manifest_pb2.SinglePass, size: Sequence[int]) -> int:
    """Number of cells that a query may name."""
    if declared.HasField("clip"):
        return declared.clip.cells.times * declared.clip.cells.rows * declared.clip.cells.columns
    cell = declared.generated.cell if declared.HasField("generated") else declared.picture.cell
    return math.prod(math.ceil(each / cell) for each in size)
