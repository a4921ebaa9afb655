# SPDX-License-Identifier: Apache-2.0
"""The work of a request, as a user of a peer would write it: decode the picture, scale, pad; run the graph; render the answer.

It is the work of our server on the same request: the same reduced decoding of large JPEG files, size of the input, scaling, padding
and rendering; and for segmentations the share and mean confidence of each class. Sizes are width and height.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import ExifTags, Image, ImageOps

Size = tuple[int, int]
TOP = 5
_DRAFT = 2
_LYING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


@dataclass(frozen=True)
class Settings:
    """The model, and how a peer runs it.

    Attributes:
        graph: path of the ONNX file.
        task: "segmentation" or "classification".
        sizes: of the input.
        is_padded: whether the aspect ratio is kept and the rest padded.
        labels: names of the classes.
        palette: red, green and blue of each class in turn, for segmentations.
        workers: processes.
        batch_size: largest batch; 1 for the framework's way without batches.
        wait_ms: how long a batch waits for more requests, in the framework's sense.
    """

    graph: str
    task: str
    sizes: Sequence[Size]
    is_padded: bool
    labels: Sequence[str]
    palette: Sequence[int]
    workers: int = 2
    batch_size: int = 1
    wait_ms: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Settings from a JSON file with these fields."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Sample:
    """A picture for the graph: its feeds without the batch axis, and the size of the upright picture."""

    feeds: dict[str, Any]
    size: Size


class Work:
    """A session of one thread, and the work before and after its runs.

    Args:
        settings: of the model.
    """

    def __init__(self, settings: Settings) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(settings.graph, options, providers=["CPUExecutionProvider"])
        self._settings = settings

    def read(self, picture: bytes | Image.Image) -> Sample:
        """Decodes a picture, or what Pillow has opened but not decoded, and scales it."""
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        is_lying = image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
        own = (image.height, image.width) if is_lying else image.size
        target = inner = self._target(own)
        draft = (_DRAFT * target[0], _DRAFT * target[1])
        image.draft("RGB", (draft[1], draft[0]) if is_lying else draft)
        image = ImageOps.exif_transpose(image).convert("RGB")
        if self._settings.is_padded:
            factor = min(target[0] / own[0], target[1] / own[1])
            inner = max(1, round(own[0] * factor)), max(1, round(own[1] * factor))
        pixels = np.asarray(image if image.size == inner else image.resize(inner, Image.Resampling.BICUBIC))
        if not self._settings.is_padded:
            return Sample({"image": pixels}, own)
        if inner != target:
            whole = np.zeros((target[1], target[0], 3), np.uint8)
            whole[: inner[1], : inner[0]] = pixels
            pixels = whole
        return Sample({"image": pixels, "size": np.array([inner[1], inner[0]], np.int64)}, own)

    def _target(self, size: Size) -> Size:
        """The input's size with the least share of padding."""

        def padding(each: Size) -> float:
            factor = min(each[0] / size[0], each[1] / size[1])
            return 1 - factor * factor * size[0] * size[1] / (each[0] * each[1])

        width, height = min(self._settings.sizes, key=padding)
        return width, height

    def run(self, samples: Sequence[Sample]) -> list[list[Any]]:
        """The outputs of each sample; all of them have the same input size, or are run one by one."""
        if len({sample.feeds["image"].shape for sample in samples}) > 1:
            return [self.run([sample])[0] for sample in samples]
        feeds = {name: np.stack([sample.feeds[name] for sample in samples]) for name in samples[0].feeds}
        outputs: list[Any] = list(self._session.run(None, feeds))
        return [[output[index] for output in outputs] for index in range(len(samples))]

    def top(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """The most probable classes of a classification."""
        best = np.argsort(-outputs[0])[:TOP]
        return {"classes": [{"name": self._settings.labels[i], "probability": float(outputs[0][i])} for i in best]}

    def drawn(self, outputs: Sequence[Any], sample: Sample) -> tuple[bytes, list[dict[str, Any]]]:
        """The class map of a segmentation at the picture's size, as PNG; share and mean confidence of each class."""
        classes, confidence = outputs[0], outputs[1]
        if "size" in sample.feeds:
            height, width = sample.feeds["size"]
            classes, confidence = classes[:height, :width], confidence[:height, :width]
        map_ = Image.fromarray(classes)
        if map_.size != sample.size:
            map_ = map_.resize(sample.size, Image.Resampling.NEAREST)
        map_.putpalette(self._settings.palette)
        file = io.BytesIO()
        map_.save(file, "PNG", compress_level=PNG_LEVEL)
        count = len(self._settings.labels)
        pixels = np.bincount(classes.ravel(), minlength=count)
        sums = np.bincount(classes.ravel(), confidence.ravel(), count)
        means = sums / np.maximum(pixels, 1) / 255
        areas = [{"share": float(pixels[i]) / classes.size, "confidence": float(means[i])} for i in range(count)]
        return file.getvalue(), areas


PNG_LEVEL = 1
"""Effort of the compression. Level 1 takes less time for a class map than the default, at a quarter more bytes."""
