# SPDX-License-Identifier: Apache-2.0
"""Locust users of the services whose models run once for an answer: segmentation, classification and generation."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

from PIL import Image

from attnserve.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    segmentation_pb2,
    segmentation_pb2_grpc,
)
from attnserve_loadtest import images
from attnserve_loadtest.recording import CLASSIFY, CLASSIFY_VIDEO, GENERATE, SEGMENT
from attnserve_loadtest.users import ImageUser, LoadUser

NUM_QUERIES = 4
"""Pixels of an image whose pairwise maps are asked for, with attention."""
COUNTS = (1, 1, 4, 16)
"""Images of a generation, in turn; the answer is a grid."""
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@functools.cache
def street_files(folder: str) -> list[bytes]:
    """The files of a folder, or the project's own street in many sizes; read once."""
    return images.streets(Path(folder) if folder else None)


@functools.cache
def queries_of(image: bytes) -> tuple[segmentation_pb2.Pixel, ...]:
    """Pixels on the diagonal of an image, each in the middle of its part."""
    with Image.open(io.BytesIO(image)) as file:
        width, height = file.size
    shares = [(2 * index + 1) / (2 * NUM_QUERIES) for index in range(NUM_QUERIES)]
    return tuple(segmentation_pb2.Pixel(x=int(share * width), y=int(share * height)) for share in shares)


class SegmentUser(ImageUser):
    """Requests segmentations of images; with attention, the unary map and the pairwise maps of some pixels too."""

    files = staticmethod(street_files)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._stub = segmentation_pb2_grpc.SegmentationServiceStub(self._channel)
        options = environment.parsed_options
        self._model, self._has_attention = options.segment_model, options.attention != "none"

    def ask(self, item: bytes, scheduled: float) -> None:
        """See :meth:`LoadUser.ask`."""
        request = segmentation_pb2.SegmentRequest(
            image=item,
            model=self._model,
            format=segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS,
            return_unary=self._has_attention,
            queries=queries_of(item) if self._has_attention else (),
        )
        self.call(SEGMENT, scheduled, lambda: self.send(self._stub.Segment, request).timings.total_seconds)


class ClassifyUser(ImageUser):
    """Requests classifications of images; with attention, the maps of all blocks too."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._stub = classification_pb2_grpc.ClassificationServiceStub(self._channel)
        options = environment.parsed_options
        self._model, self._has_attention = options.classify_model, options.attention != "none"

    def ask(self, item: bytes, scheduled: float) -> None:
        """See :meth:`LoadUser.ask`."""
        request = classification_pb2.ClassifyImageRequest(image=item, model=self._model, return_attention=self._has_attention)
        self.call(CLASSIFY, scheduled, lambda: self.send(self._stub.ClassifyImage, request).timings.total_seconds)


@functools.cache
def clip_file(path: str) -> bytes:
    """A video file, or the demo's; read once."""
    return (Path(path) if path else images.CLIP).read_bytes()


class ClassifyVideoUser(LoadUser):
    """Requests classifications of a clip, sent as a file; with attention, the map of the middle of the clip too."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._stub = classification_pb2_grpc.ClassificationServiceStub(self._channel)
        options = environment.parsed_options
        self._model, self._has_attention = options.video_model, options.attention != "none"

    @classmethod
    def prepare(cls, options: Any) -> None:
        """See :meth:`LoadUser.prepare`."""
        clip_file(options.clip)

    def items(self, options: Any) -> list[bytes]:
        """One video file."""
        return [clip_file(options.clip)]

    def ask(self, item: bytes, scheduled: float) -> None:
        """See :meth:`LoadUser.ask`."""
        queries = [classification_pb2.ClipPosition(frame=15, x=0.5, y=0.5)] if self._has_attention else []
        request = classification_pb2.ClassifyVideoRequest(video=item, model=self._model, queries=queries)
        self.call(CLASSIFY_VIDEO, scheduled, lambda: self.send(self._stub.ClassifyVideo, request).timings.total_seconds)


class GenerateUser(LoadUser):
    """Requests images of the classes of CIFAR-10, each time of another seed; with attention, the maps of a pixel too."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)
        options = environment.parsed_options
        self._model, self._has_attention = options.generate_model, options.attention != "none"

    def items(self, options: Any) -> list[tuple[str, int]]:
        """Classes and numbers of images."""
        del options
        return [(name, count) for count in COUNTS for name in CIFAR10]

    def ask(self, item: tuple[str, int], scheduled: float) -> None:
        """See :meth:`LoadUser.ask`."""
        name, count = item
        pixel = generation_pb2.GeneratedPixel(x=0, y=0) if self._has_attention else None
        request = generation_pb2.GenerateImageRequest(
            class_name=name, count=count, model=self._model, form=generation_pb2.GENERATION_FORM_GRID, attention_at=pixel
        )
        self.call(GENERATE, scheduled, lambda: self.send(self._stub.GenerateImage, request).timings.total_seconds)


PASS_USERS = (SegmentUser, ClassifyUser, ClassifyVideoUser, GenerateUser)
"""The user classes of this file; ``recording.KINDS`` names those of each kind of load."""
