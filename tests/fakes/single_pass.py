# SPDX-License-Identifier: Apache-2.0
"""The services of single-pass models for ``FakeServer``. Their answers follow from the size of the image."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnserve.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    manifest_pb2,
    model_pb2,
    segmentation_pb2,
    segmentation_pb2_grpc,
)

CLASSES = (("Sky", 0x8080FF), ("Road", 0x804080), ("Tree", 0x808000))
CELL = 4
"""Pixels of a cell of the grid."""


def class_map_of(width: int, height: int) -> NDArray[np.uint8]:
    """Sky above, road below, a tree nowhere."""
    found = np.zeros((height, width), np.uint8)
    found[height // 2 :] = 1
    return found


def segment_answer(request: segmentation_pb2.SegmentRequest) -> segmentation_pb2.SegmentResponse:
    """Pairwise weights are on the query's own cell, unary ones on the first cell."""
    with Image.open(io.BytesIO(request.image)) as image:
        width, height = image.size
    found = class_map_of(width, height)
    response = segmentation_pb2.SegmentResponse(model=request.model or "fake-segments", version="1")
    response.map.width, response.map.height = width, height
    if request.format == segmentation_pb2.CLASS_MAP_FORMAT_RAW:
        response.map.raw = found.tobytes()
    elif request.format == segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS:
        above = height // 2 * width
        response.map.runs.classes.extend([0, 1] if above else [1])
        response.map.runs.lengths.extend([above, width * height - above] if above else [width * height])
    else:
        file = io.BytesIO()
        indexed = Image.fromarray(found, "P")
        indexed.putpalette([part for _, colour in CLASSES for part in (colour >> 16, colour >> 8 & 255, colour & 255)])
        indexed.save(file, "PNG")
        response.map.png = file.getvalue()
    for index, (name, colour) in enumerate(CLASSES):
        share = float((found == index).mean())
        response.classes.add(index=index, name=name, colour=colour, share=share, confidence=0.75 if share else 0.0)
    rows, columns = -(-height // CELL), -(-width // CELL)
    if request.return_unary or request.queries:
        attention = response.attention
        attention.rows, attention.columns, attention.cell_width, attention.cell_height = rows, columns, CELL, CELL
        if request.return_unary:
            attention.unary.extend([1.0] + [0.0] * (rows * columns - 1))
        for query in request.queries:
            cell = query.y // CELL * columns + query.x // CELL
            weights = [float(index == cell) for index in range(rows * columns)]
            attention.pairwise.add(query=query, cell=cell, weights=weights)
    response.timings.preparation_seconds, response.timings.queue_seconds = 0.001, 0.002
    response.timings.run_seconds, response.timings.total_seconds, response.timings.batch_size = 0.003, 0.5, 1
    return response


CATEGORIES = ("cat", "dog", "frog")


def classify_answer(request: classification_pb2.ClassifyImageRequest) -> classification_pb2.ClassifyImageResponse:
    """The class is that of the strongest colour channel of the image's first pixel."""
    with Image.open(io.BytesIO(request.image)) as image:
        red, green, blue = np.asarray(image.convert("RGB"))[0, 0].tolist()
    order = np.argsort([-red, -green, -blue], kind="stable").tolist()
    response = classification_pb2.ClassifyImageResponse(model=request.model or "fake-classes", version="1")
    for probability, index in list(zip((0.7, 0.2, 0.1), order, strict=True))[: request.top_k or 5]:
        response.classes.add(index=index, name=CATEGORIES[index], probability=probability)
    if request.return_attention:
        response.attention.add(block="stage1", channels=[0.5, 0.25], rows=2, columns=2, spatial=[0.1, 0.2, 0.3, 0.4])
        response.attention.add(block="stage2", channels=[1.0, 0.0, 0.5])
    response.timings.total_seconds, response.timings.batch_size = 0.5, 2
    return response


MOVES = ("still", "slow", "fast")
CLIP_CELLS = (2, 2, 3)
NUM_FRAMES = 4
"""Sampled frames; two of them belong to each cell in time."""


def video_answer(request: classification_pb2.ClassifyVideoRequest) -> classification_pb2.ClassifyVideoResponse:
    """A file is "fast" and has 40 frames; frames are "still". Weights are on the query's own cell."""
    order, count = ([2, 1, 0], 40) if request.video else ([0, 1, 2], len(request.frames))
    response = classification_pb2.ClassifyVideoResponse(model=request.model or "fake-video", version="1", clip_frames=count)
    for probability, index in list(zip((0.7, 0.2, 0.1), order, strict=True))[: request.top_k or 5]:
        response.classes.add(index=index, name=MOVES[index], probability=probability)
    file = io.BytesIO()
    Image.new("RGB", (24, 24), "teal").save(file, "JPEG")
    for number in range(NUM_FRAMES):
        seconds = 0.5 * number if request.video else 0.0
        picture = file.getvalue() if request.return_pictures else b""
        response.frames.add(index=min(10 * number, count - 1), seconds=seconds, time=number // 2, picture=picture)
    times, rows, columns = CLIP_CELLS
    for query in request.queries:
        response.attention.times, response.attention.rows, response.attention.columns = CLIP_CELLS
        place = min(int(query.y * rows), rows - 1) * columns + min(int(query.x * columns), columns - 1)
        cell = min(query.frame // 2, times - 1) * rows * columns + place
        weights = [float(index == cell) for index in range(times * rows * columns)]
        response.attention.maps.add(query=query, cell=cell, weights=weights)
    response.timings.total_seconds, response.timings.batch_size = 0.5, 1
    return response


KINDS = ("cat", "dog", "frog")
GENERATED, SIDE = 4, 2
"""Pixels of a generated image's side, and cells of its attention's."""


def generated_pixels(seed: int, index: int) -> NDArray[np.uint8]:
    """An image of one colour."""
    return np.full((GENERATED, GENERATED, 3), ((seed + 50 * index) % 256, index, 7), np.uint8)


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def generate_answer(request: generation_pb2.GenerateImageRequest) -> generation_pb2.GenerateImageResponse:
    """Images of the seed's colour, in a grid of two columns if a grid is asked for; all attention is on the cell itself."""
    count, seed = request.count or 1, request.seed if request.HasField("seed") else 99
    images = [generated_pixels(seed, index) for index in range(count)]
    response = generation_pb2.GenerateImageResponse(width=GENERATED, height=GENERATED, count=count, seed=seed)
    if request.form == generation_pb2.GENERATION_FORM_GRID:
        response.columns = 2
        images += [np.full_like(images[0], 255)] * (count % 2)
        response.images.append(png_of(np.concatenate([np.concatenate(images[at : at + 2], 1) for at in range(0, count, 2)])))
    else:
        response.images.extend(png_of(each) for each in images)
    if request.HasField("attention_at"):
        side = GENERATED // SIDE
        response.attention.rows = response.attention.columns = SIDE
        response.attention.cell = request.attention_at.y // side * SIDE + request.attention_at.x // side
        for _ in range(count):
            response.attention.maps.add(weights=[float(cell == response.attention.cell) for cell in range(SIDE**2)])
    response.class_index = KINDS.index(request.class_name)
    response.model, response.version = request.model or "fake-generation", "1"
    response.timings.total_seconds, response.timings.batch_size = 0.5, 2
    return response


def describe_passes(model: model_pb2.Model, manifest: manifest_pb2.Manifest) -> None:
    """Adds to a manifest what a single-pass model declares."""
    names = {
        manifest_pb2.TASK_SEGMENTATION: [name for name, _ in CLASSES],
        manifest_pb2.TASK_CLASSIFICATION: CATEGORIES,
        manifest_pb2.TASK_VIDEO_CLASSIFICATION: MOVES,
        manifest_pb2.TASK_GENERATION: KINDS,
    }
    manifest.single_pass.labels.extend(manifest_pb2.Label(name=name) for name in names.get(model.task, ()))
    if model.task == manifest_pb2.TASK_GENERATION:
        manifest.single_pass.generated.width = manifest.single_pass.generated.height = GENERATED
    if manifest.single_pass.labels:
        manifest.variants[0].passes.extend(manifest_pb2.PassGraph(gives_attention=gives) for gives in (False, True))


def refuse(request: Any, context: Any) -> None:
    """Refuses a file that begins with "bad", and more than 16 queries."""
    from tests.fakes.server import Failure

    if getattr(request, "image", b"").startswith(b"bad"):
        Failure(grpc.StatusCode.INVALID_ARGUMENT, "image is bad", "INVALID_REQUEST", "image").abort(context)
    if len(getattr(request, "queries", ())) > 16:
        Failure(grpc.StatusCode.INVALID_ARGUMENT, "queries must be at most 16", "INVALID_REQUEST", "queries").abort(context)


@dataclass
class FakeSegmentation(segmentation_pb2_grpc.SegmentationServiceServicer):
    """Answers with ``segment_answer``, altered by ``alter``."""

    alter: Callable[[Any], None] = lambda response: None
    requests: list[Any] = field(default_factory=list)

    def Segment(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        refuse(request, context)
        response = segment_answer(request)
        self.alter(response)
        return response


@dataclass
class FakeClassification(classification_pb2_grpc.ClassificationServiceServicer):
    """Answers with ``classify_answer``, altered by ``alter``."""

    alter: Callable[[Any], None] = lambda response: None
    requests: list[Any] = field(default_factory=list)

    def ClassifyImage(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        refuse(request, context)
        response = classify_answer(request)
        self.alter(response)
        return response

    def ClassifyVideo(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        refuse(request, context)
        from tests.fakes.server import Failure

        if request.video.startswith(b"bad"):
            Failure(grpc.StatusCode.INVALID_ARGUMENT, "video is bad", "INVALID_REQUEST", "video").abort(context)
        if request.video.startswith(b"no decoder"):
            Failure(grpc.StatusCode.FAILED_PRECONDITION, "video files need PyAV", "EXTRA_MISSING", "video").abort(context)
        response = video_answer(request)
        self.alter(response)
        return response


@dataclass
class FakeGeneration(generation_pb2_grpc.GenerationServiceServicer):
    """Answers with ``generate_answer``, altered by ``alter``; refuses unknown classes."""

    alter: Callable[[Any], None] = lambda response: None
    requests: list[Any] = field(default_factory=list)

    def GenerateImage(self, request: Any, context: Any) -> Any:
        from tests.fakes.server import Failure

        self.requests.append(request)
        if request.class_name not in KINDS:
            Failure(grpc.StatusCode.INVALID_ARGUMENT, "class_name is bad", "INVALID_REQUEST", "class_name").abort(context)
        response = generate_answer(request)
        self.alter(response)
        return response
