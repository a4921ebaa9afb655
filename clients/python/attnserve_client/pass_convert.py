# SPDX-License-Identifier: Apache-2.0
"""Converts between the clients' values and the messages of models that run once; see ``convert.py``."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnserve.v1 import classification_pb2, segmentation_pb2, single_pass_pb2
from attnserve_client.errors import AttnserveError, InvalidRequest, ToolError
from attnserve_client.fields import new_request, set_fields
from attnserve_client.image_files import ImageFile, image_bytes
from attnserve_client.options import ClassifyKeywords, SegmentKeywords
from attnserve_client.pass_types import (
    BlockAttention,
    ClassArea,
    Classification,
    ClassProbability,
    PairwiseMap,
    PassTimings,
    Segmentation,
    SegmentAttention,
)

DEFAULT_FORMAT = "run_lengths"
_FORMATS: dict[str, segmentation_pb2.ClassMapFormat] = {
    "png": segmentation_pb2.CLASS_MAP_FORMAT_PNG,
    "run_lengths": segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS,
    "raw": segmentation_pb2.CLASS_MAP_FORMAT_RAW,
}


def segment_request(image: ImageFile, model: str, version: str, keywords: SegmentKeywords) -> segmentation_pb2.SegmentRequest:
    """Returns a request.

    Raises:
        InvalidRequest: a field has a value that cannot be sent.
        ToolError: the class map is requested as PNG, and Pillow is not installed.
        OSError: the file cannot be read.
    """
    fields: dict[str, Any] = dict(keywords)
    form, queries = fields.pop("format", DEFAULT_FORMAT), fields.pop("queries", ())
    if form not in _FORMATS:
        raise InvalidRequest(f"format must be one of {', '.join(_FORMATS)}, not {form!r}", field="format")
    if form == "png":
        _require_pillow()
    request = new_request(segmentation_pb2.SegmentRequest, model, version, image=image_bytes(image), format=_FORMATS[form])
    try:
        request.queries.extend(segmentation_pb2.Pixel(x=x, y=y) for x, y in queries)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"queries cannot be {queries!r}: {error}", field="queries") from error
    set_fields(request, fields)
    return request


def classify_request(
    image: ImageFile, model: str, version: str, keywords: ClassifyKeywords
) -> classification_pb2.ClassifyImageRequest:
    """Returns a request.

    Raises:
        InvalidRequest: a field has a value that cannot be sent.
        OSError: the file cannot be read.
    """
    request = new_request(classification_pb2.ClassifyImageRequest, model, version, image=image_bytes(image))
    set_fields(request, dict(keywords))
    return request


def segmentation_from_proto(message: segmentation_pb2.SegmentResponse) -> Segmentation:
    """Returns the segmentation in a response.

    Raises:
        AttnserveError: the response violates the protocol.
        ToolError: the class map is a PNG file, and Pillow is not installed.
    """
    class_map = class_map_array(message.map)
    num_classes = len(message.classes)
    if [each.index for each in message.classes] != list(range(num_classes)) or int(class_map.max(initial=0)) >= num_classes:
        raise AttnserveError("the class map in the server's answer has classes that the answer does not list", code="INTERNAL")
    return Segmentation(
        class_map=class_map,
        classes=tuple(
            ClassArea(
                each.index,
                each.name,
                (each.colour >> 16 & 255, each.colour >> 8 & 255, each.colour & 255),
                each.share,
                each.confidence,
            )
            for each in message.classes
        ),
        attention=_attention(message.attention) if message.HasField("attention") else None,
        model=message.model,
        version=message.version,
        timings=timings_from_proto(message.timings),
    )


def class_map_array(message: segmentation_pb2.ClassMap) -> NDArray[np.uint8]:
    """Returns a class map as a read-only array, uint8 (height, width), whatever its form in the message.

    Raises:
        AttnserveError: the message violates the protocol, or has a form that this client does not know.
        ToolError: the form is PNG, and Pillow is not installed.
    """
    form, shape = message.WhichOneof("form"), (message.height, message.width)
    match form:
        case "raw":
            flat = np.frombuffer(message.raw, np.uint8)
        case "runs":
            flat = _repeated(message.runs, shape[0] * shape[1])
        case "png":
            flat = _decoded(message.png, shape)
        case _:
            raise AttnserveError("the class map in the server's answer has an unknown form", code="INTERNAL")
    if flat.size != shape[0] * shape[1] or not flat.size:
        raise AttnserveError(
            f"the server's answer has {flat.size} pixels for a class map of {shape[1]} × {shape[0]}", code="INTERNAL"
        )
    class_map = flat.reshape(shape)
    class_map.setflags(write=False)
    return class_map


def classification_from_proto(message: classification_pb2.ClassifyImageResponse) -> Classification:
    """Returns the classification in a response.

    Raises:
        AttnserveError: the response violates the protocol.
    """
    if not message.classes:
        raise AttnserveError("the server's answer has no class", code="INTERNAL")
    return Classification(
        classes=tuple(ClassProbability(each.index, each.name, each.probability) for each in message.classes),
        attention=tuple(
            BlockAttention(
                block=each.block,
                channels=weights_array(each.channels, (len(each.channels),)) if each.channels else None,
                spatial=weights_array(each.spatial, (each.rows, each.columns))
                if each.rows or each.columns or each.spatial
                else None,
            )
            for each in message.attention
        ),
        model=message.model,
        version=message.version,
        timings=timings_from_proto(message.timings),
    )


def _repeated(runs: segmentation_pb2.ClassRuns, num_pixels: int) -> NDArray[np.uint8]:
    """Returns the pixels of runs, uint8 (num_pixels,)."""
    classes, lengths = np.array(runs.classes, np.uint32), np.array(runs.lengths, np.int64)
    # Checked before the array is made: lengths of a faulty server could ask for any amount of memory.
    if classes.size != lengths.size or int(lengths.sum()) != num_pixels or int(classes.max(initial=0)) > 255:
        raise AttnserveError(f"the server's answer has runs that do not make {num_pixels} pixels", code="INTERNAL")
    return np.repeat(classes.astype(np.uint8), lengths)


def _decoded(file: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns the indices in a PNG file, uint8 (pixels,)."""
    _require_pillow()
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as image:
            if image.mode not in ("P", "L") or image.size != (shape[1], shape[0]):
                raise ValueError(f"an image of mode {image.mode} and size {image.size}")
            return np.array(image, np.uint8).reshape(-1)
    except (OSError, ValueError, SyntaxError) as error:
        raise AttnserveError(
            f"the class map in the server's answer is not an indexed PNG file: {error}", code="INTERNAL"
        ) from error


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ToolError('class maps as PNG need Pillow: pip install "attnserve[cli]", or request "run_lengths"') from error


def _attention(message: segmentation_pb2.SegmentAttention) -> SegmentAttention:
    shape = message.rows, message.columns
    if not all(shape):
        raise AttnserveError("the attention in the server's answer has no cells", code="INTERNAL")
    return SegmentAttention(
        rows=shape[0],
        columns=shape[1],
        cell_width=message.cell_width,
        cell_height=message.cell_height,
        unary=weights_array(message.unary, shape) if message.unary else None,
        pairwise=tuple(
            PairwiseMap((each.query.x, each.query.y), divmod(each.cell, shape[1]), weights_array(each.weights, shape))
            for each in message.pairwise
        ),
    )


def weights_array(values: Iterable[float], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns a read-only array of that shape.

    Raises:
        AttnserveError: there is another number of values.
    """
    weights = np.array(values, np.float32)
    if weights.shape != (int(np.prod(shape)),):
        raise AttnserveError(f"the server's answer has {weights.size} weights for an attention of {shape}", code="INTERNAL")
    shaped = weights.reshape(shape)
    shaped.setflags(write=False)
    return shaped


def timings_from_proto(message: single_pass_pb2.PassTimings) -> PassTimings:
    """Returns the timings in a response."""
    return PassTimings(
        preparation_s=message.preparation_seconds,
        queue_s=message.queue_seconds,
        run_s=message.run_seconds,
        total_s=message.total_seconds,
        batch_size=message.batch_size,
    )
