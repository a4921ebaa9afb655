# SPDX-License-Identifier: Apache-2.0
"""Measures that the answer for a picture depends neither on the other pictures of its batch nor on the size of its image.

Batch mates may change the last bits of a probability, since ONNX Runtime's convolutions and products choose their blocks by the
batch. So may the padding; a fault in its masking is largest in a picture's last rows and columns, which are too few to be seen in a
share of all pixels, so they are compared on their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.parity import EXACT, TOLERANCE
from attnserve_export.parity_sources import Array
from attnserve_export.pass_parity import classes_of
from attnserve_export.pass_runner import PROBABILITIES, Feeds, PassRunner, placed, stacked

MAX_MATE_DIFFERENCE = 1e-5
"""Of a probability, between a picture alone and in a batch."""
MIN_SAME_SHARE = 0.995
"""Least share of a picture's pixels whose class is the same in each size of the input."""
MIN_SAME_EDGE_SHARE = 0.995
"""The same, of the pixels of its last rows, and of those of its last columns."""
_EDGE = 2
"""Rows or columns: the interpolation by 4 mixes so many with the cell beside the picture."""
_MATES = (2, 3, 8)


def check_independence(folder: Path, manifest: manifest_pb2.Manifest, pictures: Sequence[Array]) -> dict[str, Any]:
    """Returns the largest differences found with the plain fp32 graph.

    Raises:
        ExportError: one is beyond its limit.
    """
    variant = next(each for each in manifest.variants if each.name == EXACT)
    runner = PassRunner(folder, variant.passes[0], manifest.task)
    found: dict[str, Any] = {"batch_mates": batch_mates(runner, manifest, pictures)}
    problems = []
    mates = found["batch_mates"]
    if not mates["max_difference"] <= MAX_MATE_DIFFERENCE or mates["different_classes"]:
        problems.append(f"batch mates change a probability by {mates['max_difference']:.2g}, classes {mates['different_classes']}")
    if manifest.single_pass.picture.fit == manifest_pb2.FIT_PAD:
        plain = PassRunner(folder, variant.passes[0], manifest.task, is_plain=True)
        found["padding"] = padding(plain, manifest, pictures)
        for key, least, what in (
            ("least_share", MIN_SAME_SHARE, "pixels"),
            ("least_edge_share", MIN_SAME_EDGE_SHARE, "edge pixels"),
        ):
            if not found["padding"][key] >= least:
                problems.append(f"in another size {1 - found['padding'][key]:.2%} of a picture's {what} have another class")
    if problems:
        raise ExportError("independence: " + "; ".join(problems))
    return found


def batch_mates(runner: PassRunner, manifest: manifest_pb2.Manifest, pictures: Sequence[Array]) -> dict[str, Any]:
    """Compares pictures alone and in batches: the largest difference of a probability, and classes that differ beyond near-ties."""
    picture, rng = manifest.single_pass.picture, np.random.default_rng(1)
    largest, different = 0.0, 0
    for count in _MATES:
        drawn = [pictures[index] for index in rng.integers(len(pictures), size=count)]
        feeds = stacked(manifest.single_pass, drawn, rng)
        if picture.fit == manifest_pb2.FIT_PAD:
            size = picture.sizes[0]
            drawn = [each[: each.shape[0] * (16 - at) // 16] for at, each in enumerate(drawn)]
            feeds = placed(drawn, size.width, size.height, picture.cell, rng)
        together = runner.run(feeds)
        for at in range(count):
            alone = runner.run({name: value[at : at + 1] for name, value in feeds.items()})
            largest = max(largest, float(np.abs(alone[PROBABILITIES][0] - together[PROBABILITIES][at]).max()))
            best = np.sort(alone[PROBABILITIES][0], 0)[-2:]
            differs = classes_of(alone)[0] != classes_of(together)[at]
            different += int((differs & (best[1] - best[0] > TOLERANCE)).sum())
    return {"max_difference": float(f"{largest:.2g}"), "different_classes": different, "batches": list(_MATES)}


def padding(
    runner: PassRunner, manifest: manifest_pb2.Manifest, pictures: Sequence[Array], *, is_masked: bool = True
) -> dict[str, Any]:
    """Compares each picture's classes in the size that it gets, and in each other size that it fits without scaling.

    Args:
        runner: of the plain graph.
        manifest: declares the sizes.
        pictures: each is used whole, and in several cuts.
        is_masked: False tells the graph that the padding belongs to the picture, a fault that this measurement must find.
    """
    shares, edges = list[float](), list[float]()
    for picture in pictures:
        for cut in cuts(picture):
            found = []
            for size in manifest.single_pass.picture.sizes:
                if cut.shape[0] <= size.height and cut.shape[1] <= size.width:
                    found.append(classes_in(runner, cut, size, is_masked=is_masked))
            same = [each == found[0] for each in found[1:]]
            shares += [float(each.mean()) for each in same]
            edges += [float(min(each[-_EDGE:].mean(), each[:, -_EDGE:].mean())) for each in same]
    return {
        "least_share": round(min(shares), 5),
        "least_edge_share": round(min(edges), 5),
        "mean_share": round(float(np.mean(shares)), 5),
        "comparisons": len(shares),
    }


def cuts(picture: Array) -> list[Array]:
    """The whole picture; its lower three quarters; the same with a height of whole cells of 16 pixels; its middle; and the whole
    scaled down to sides of whole cells.

    480 × 272, the third cut of 480 × 360, fills an image of its size with no padding at all, and has padding in the others.
    """
    height, width = picture.shape[:2]
    tall = picture[:, width // 4 : width // 4 + width * 9 // 16]
    wide, even = picture[height // 4 :], picture[-height * 3 // 4 // 16 * 16 :]
    smaller = np.asarray(
        Image.fromarray(picture).resize((width * 11 // 15 // 16 * 16, height * 11 // 15 // 16 * 16), Image.Resampling.BICUBIC)
    )
    return [picture, wide, even, tall, smaller]


def classes_in(runner: PassRunner, picture: Array, size: manifest_pb2.PictureSize, *, is_masked: bool) -> Array:
    """Of a picture in the corner of an image: (h, w)."""
    height, width = picture.shape[:2]
    image = np.full((1, size.height, size.width, 3), 127, np.uint8)
    image[0, :height, :width] = picture
    told = np.array([[height, width] if is_masked else [size.height, size.width]], np.int64)
    feeds: Feeds = {"image": image, "size": told}
    found: Array = classes_of(runner.run(feeds))[0, :height, :width]
    return found
