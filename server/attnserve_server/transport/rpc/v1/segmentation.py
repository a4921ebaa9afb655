# SPDX-License-Identifier: Apache-2.0
"""SegmentationService: converts messages to segmentation requests, and answers to messages. Must not import grpc."""

from __future__ import annotations

import functools

from attnserve.v1 import segmentation_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked, DataPlane
from attnserve_server.metrics.timings import Timings
from attnserve_server.tasks.answers import ClassArea, ClassMapFormat, ClassRuns, Segmentation, SegmentAttention
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import SEGMENTATION
from attnserve_server.tasks.segmentation import MAX_QUERIES, AskedSegmentation
from attnserve_server.transport.rpc.v1.packed import add_floats, delimited, packed_integers
from attnserve_server.transport.rpc.v1.single_pass import few, pass_timings_message

_FORMAT = {
    segmentation_pb2.CLASS_MAP_FORMAT_UNSPECIFIED: ClassMapFormat.PNG,
    segmentation_pb2.CLASS_MAP_FORMAT_PNG: ClassMapFormat.PNG,
    segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS: ClassMapFormat.RUN_LENGTHS,
    segmentation_pb2.CLASS_MAP_FORMAT_RAW: ClassMapFormat.RAW,
}


class SegmentationServicer:
    """Answers the RPCs of ``attnserve.v1.SegmentationService``.

    Args:
        plane: handles the requests.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def segment(self, request: segmentation_pb2.SegmentRequest, call: Call) -> bytes:
        """Answers with the class of each pixel: an encoded ``SegmentResponse``."""
        pending = await self._plane.submit(call, SEGMENTATION, _asked(request))
        return await pending.answer(functools.partial(segment_response, pending.model))


def segment_response(model: Model, answer: Segmentation, timings: Timings) -> bytes:
    """Returns the encoded message of an answer. Runs on a thread where the answer was made."""
    response = segmentation_pb2.SegmentResponse(
        classes=[_area_message(model, each) for each in answer.classes],
        attention=_attention_message(answer.attention) if answer.attention is not None else None,
        model=model.id,
        version=model.version,
        timings=pass_timings_message(timings, answer.batch_size),
    )
    return response.SerializeToString() + delimited(segmentation_pb2.SegmentResponse.MAP_FIELD_NUMBER, _encoded_map(answer))


def _encoded_map(answer: Segmentation) -> bytes:
    """Returns an encoded ``ClassMap``."""
    found = segmentation_pb2.ClassMap(width=answer.width, height=answer.height)
    if isinstance(answer.map, ClassRuns):
        numbers = segmentation_pb2.ClassRuns.CLASSES_FIELD_NUMBER, segmentation_pb2.ClassRuns.LENGTHS_FIELD_NUMBER
        runs = packed_integers(numbers[0], answer.map.classes) + packed_integers(numbers[1], answer.map.lengths)
        return found.SerializeToString() + delimited(segmentation_pb2.ClassMap.RUNS_FIELD_NUMBER, runs)
    if answer.format is ClassMapFormat.PNG:
        found.png = answer.map
    else:
        found.raw = answer.map
    return found.SerializeToString()


def _area_message(model: Model, area: ClassArea) -> segmentation_pb2.ClassArea:
    label = model.manifest.single_pass.labels[area.index]
    return segmentation_pb2.ClassArea(
        index=area.index, name=label.name, colour=label.colour, share=area.share, confidence=area.confidence
    )


def _attention_message(attention: SegmentAttention) -> segmentation_pb2.SegmentAttention:
    width, height = attention.cell_size
    message = segmentation_pb2.SegmentAttention(
        rows=attention.rows, columns=attention.columns, cell_width=width, cell_height=height
    )
    if attention.unary is not None:
        add_floats(message, segmentation_pb2.SegmentAttention.UNARY_FIELD_NUMBER, attention.unary)
    for each in attention.pairwise:
        pixel = segmentation_pb2.Pixel(x=each.query[0], y=each.query[1])
        added = message.pairwise.add(query=pixel, cell=each.cell)
        add_floats(added, segmentation_pb2.PairwiseMap.WEIGHTS_FIELD_NUMBER, each.weights)
    return message


def _asked(request: segmentation_pb2.SegmentRequest) -> Asked:
    form = _FORMAT.get(request.format, int(request.format))
    queries = [(pixel.x, pixel.y) for pixel in few(request.queries, MAX_QUERIES, "queries")]
    asked = AskedSegmentation(request.image, form, request.return_unary, queries)
    return Asked(asked, request.model, request.version, request.priority)
