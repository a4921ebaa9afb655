# SPDX-License-Identifier: Apache-2.0
"""Golden answers of a single-pass bundle: made-up pictures or clips with what the PyTorch module gives, for each size of the input.

The pictures are fields of colour, so they stand on no terms of a data set. Tolerances are those that the parity check showed to be
met: probabilities within rounding; of class maps and of confidences, which are whole numbers, a small share may differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export.golden import GOLDEN_FILE
from attnserve_export.golden_sources import made_up_clips, made_up_images
from attnserve_export.parity import EXACT
from attnserve_export.parity_sources import Array
from attnserve_export.pass_runner import PROBABILITIES, Outputs, placed, reference, stacked

EXACT_DIFFERENCE, DIFFERENCE = 1e-3, 0.05
"""Largest difference of a probability or an attention weight, as a share of the largest one, of fp32 and of other variants."""
EXACT_SHARE, SHARE = 0.001, 0.02
"""Largest share of pixels whose class may differ, of fp32 and of other variants."""
CLASSES, CONFIDENCE = "classes", "confidence"
NUM_QUERIES = 3
"""Queries of a golden answer; the entries after them are not used, as in a request."""
_STRETCHED = 3
"""Pictures of a model that has one size."""


def golden_passes(manifest: manifest_pb2.Manifest, model: nn.Module) -> manifest_pb2.GoldenPasses:
    """Returns a picture for each size of the input, or several for a model with one size, and their answers.

    The first has all outputs; the others have none that is attention, and no confidence, so that the file stays small.
    """
    found, all_answers = manifest_pb2.GoldenPasses(), list[Outputs]()
    for feeds in _made_up(manifest):
        answers = _answers(manifest, reference(model, feeds))
        if found.passes:
            answers = {name: answers[name] for name in (CLASSES, PROBABILITIES) if name in answers}
        inputs = {name: value[0] for name, value in feeds.items()}
        found.passes.add(inputs=tensors_of(inputs), outputs=tensors_of(answers))
        all_answers.append(answers)
    for variant in dict.fromkeys(each.name for each in manifest.variants):
        found.tolerances.extend(_tolerance(variant, name, value) for name, value in all_answers[0].items())
    return found


def _tolerance(variant: str, name: str, expected: Array) -> manifest_pb2.GoldenOutputTolerance:
    """Of an output; that of attention is in proportion to its largest weight, since weights of many cells are small."""
    is_exact = variant == EXACT
    difference, share = (EXACT_DIFFERENCE, EXACT_SHARE) if is_exact else (DIFFERENCE, SHARE)
    if name == CLASSES:
        return manifest_pb2.GoldenOutputTolerance(variant=variant, output=name, share=share)
    if name == CONFIDENCE:
        steps = 1.0 if is_exact else 255 * DIFFERENCE
        return manifest_pb2.GoldenOutputTolerance(variant=variant, output=name, difference=steps, share=share)
    largest = float(f"{difference * float(expected.max()):.1e}")
    return manifest_pb2.GoldenOutputTolerance(variant=variant, output=name, difference=largest)


def _made_up(manifest: manifest_pb2.Manifest) -> Iterator[dict[str, Array]]:
    """Inputs of one picture each; with padding, the picture is a little smaller than its image, and the padding is black."""
    picture, rng = manifest.single_pass.picture, np.random.default_rng(0)
    if manifest.single_pass.HasField("clip"):
        for made_up in made_up_clips(manifest.single_pass.clip):
            feeds = stacked(manifest.single_pass, [made_up], rng)
            feeds["query"][:, NUM_QUERIES:] = 0
            yield feeds
        return
    for index, size in enumerate(picture.sizes):
        if picture.fit != manifest_pb2.FIT_PAD:
            for image in made_up_images(_STRETCHED, size.height, size.width):
                yield {"image": image[None]}
            continue
        scene = made_up_images(len(picture.sizes), size.height, size.width)[index][: size.height - 24 * index]
        feeds = placed([scene], size.width, size.height, picture.cell, rng)
        feeds["image"][:, scene.shape[0] :] = 0
        feeds["query"][:, NUM_QUERIES:] = 0
        yield feeds


def _answers(manifest: manifest_pb2.Manifest, outputs: Outputs) -> Outputs:
    """Returns the outputs of a graph that gives attention, from the module's; each without its batch axis."""
    first = {name: value[0] for name, value in outputs.items()}
    if manifest.task != manifest_pb2.TASK_SEGMENTATION:
        return {name: value.astype(np.float32) for name, value in first.items()}
    probabilities = first.pop(PROBABILITIES)
    classes = probabilities.argmax(0).astype(np.uint8)
    confidence = np.rint(255 * probabilities.max(0)).astype(np.uint8)
    return {CLASSES: classes, CONFIDENCE: confidence, **{name: value.astype(np.float32) for name, value in first.items()}}


def tensors_of(values: Outputs) -> list[manifest_pb2.GoldenTensor]:
    """Returns tensors of one request, compressed."""
    return [
        manifest_pb2.GoldenTensor(name=name, shape=value.shape, data=zlib.compress(np.ascontiguousarray(value).tobytes(), 9))
        for name, value in values.items()
    ]


def add_golden_passes(folder: Path, manifest: manifest_pb2.Manifest, model: nn.Module) -> None:
    """Writes the file into a written bundle and names it in ``manifest``, which is still to be written."""
    write_golden(folder / GOLDEN_FILE, manifest, golden_passes(manifest, model))


def write_golden(path: Path, manifest: manifest_pb2.Manifest, golden: manifest_pb2.GoldenPasses) -> None:
    """Writes golden answers to a file of a bundle, and names it in ``manifest``."""
    path.write_text(json_format.MessageToJson(golden, preserving_proto_field_name=True, indent=None) + "\n", encoding="utf-8")
    manifest.golden_file = path.name
