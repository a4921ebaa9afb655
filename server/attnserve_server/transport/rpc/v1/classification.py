# SPDX-License-Identifier: Apache-2.0
"""ClassificationService: converts messages to classification requests, and answers to messages. Must not import grpc."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from attnserve.v1 import classification_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked, DataPlane
from attnserve_server.metrics.timings import Timings
from attnserve_server.tasks.answers import BlockAttention, Classification, ClipAttention, VideoClassification
from attnserve_server.tasks.classification import AskedClassification
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import CLASSIFICATION, VIDEO_CLASSIFICATION
from attnserve_server.tasks.video_classification import MAX_QUERIES, AskedVideo
from attnserve_server.transport.rpc.v1.packed import add_floats
from attnserve_server.transport.rpc.v1.single_pass import few, pass_timings_message


class ClassificationServicer:
    """Answers the RPCs of ``attnserve.v1.ClassificationService``.

    Args:
        plane: handles the requests.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def classify_image(
        self, request: classification_pb2.ClassifyImageRequest, call: Call
    ) -> classification_pb2.ClassifyImageResponse:
        """Answers with the most probable classes."""
        asked = AskedClassification(request.image, request.top_k, request.return_attention)
        pending = await self._plane.submit(call, CLASSIFICATION, Asked(asked, request.model, request.version, request.priority))
        return await pending.answer(functools.partial(classify_response, pending.model))

    async def classify_video(
        self, request: classification_pb2.ClassifyVideoRequest, call: Call
    ) -> classification_pb2.ClassifyVideoResponse:
        """Answers with the most probable classes of a clip."""
        queries = [(each.frame, each.x, each.y) for each in few(request.queries, MAX_QUERIES, "queries")]
        asked = AskedVideo(request.video, request.frames, request.top_k, queries, request.return_pictures)
        wrapped = Asked(asked, request.model, request.version, request.priority)
        pending = await self._plane.submit(call, VIDEO_CLASSIFICATION, wrapped)
        return await pending.answer(functools.partial(classify_video_response, pending.model))


def classify_response(model: Model, answer: Classification, timings: Timings) -> classification_pb2.ClassifyImageResponse:
    """Returns the message of an answer."""
    return classification_pb2.ClassifyImageResponse(
        classes=_class_messages(model, answer.classes),
        attention=[_block_message(each) for each in answer.attention],
        model=model.id,
        version=model.version,
        timings=pass_timings_message(timings, answer.batch_size),
    )


def _block_message(attention: BlockAttention) -> classification_pb2.BlockAttention:
    message = classification_pb2.BlockAttention(block=attention.block)
    if attention.channels is not None:
        add_floats(message, classification_pb2.BlockAttention.CHANNELS_FIELD_NUMBER, attention.channels)
    if attention.spatial is not None:
        message.rows, message.columns = attention.spatial.shape
        add_floats(message, classification_pb2.BlockAttention.SPATIAL_FIELD_NUMBER, attention.spatial)
    return message


def classify_video_response(
    model: Model, answer: VideoClassification, timings: Timings
) -> classification_pb2.ClassifyVideoResponse:
    """Returns the message of an answer. Runs on a thread where the answer was made."""
    return classification_pb2.ClassifyVideoResponse(
        classes=_class_messages(model, answer.classes),
        frames=[
            classification_pb2.SampledFrame(index=each.index, seconds=each.seconds, time=each.time, picture=each.picture)
            for each in answer.frames
        ],
        clip_frames=answer.clip_frames,
        attention=_clip_message(answer.attention) if answer.attention is not None else None,
        model=model.id,
        version=model.version,
        timings=pass_timings_message(timings, answer.batch_size),
    )


def _clip_message(attention: ClipAttention) -> classification_pb2.ClipAttention:
    times, rows, columns = attention.cells
    message = classification_pb2.ClipAttention(times=times, rows=rows, columns=columns)
    for each in attention.maps:
        frame, x, y = each.query
        added = message.maps.add(query=classification_pb2.ClipPosition(frame=frame, x=x, y=y), cell=each.cell)
        add_floats(added, classification_pb2.PositionMap.WEIGHTS_FIELD_NUMBER, each.weights)
    return message


def _class_messages(model: Model, classes: Sequence[tuple[int, float]]) -> list[classification_pb2.ClassProbability]:
    labels = model.manifest.single_pass.labels
    return [
        classification_pb2.ClassProbability(index=index, name=labels[index].name, probability=probability)
        for index, probability in classes
    ]
