# SPDX-License-Identifier: Apache-2.0
"""ClassificationService: converts messages to classification requests, and answers to messages. Must not import grpc."""

from __future__ import annotations

import functools

from attnserve.v1 import classification_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked, DataPlane
from attnserve_server.metrics.timings import Timings
from attnserve_server.tasks.answers import BlockAttention, Classification
from attnserve_server.tasks.classification import AskedClassification
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import CLASSIFICATION
from attnserve_server.transport.rpc.v1.packed import add_floats
from attnserve_server.transport.rpc.v1.single_pass import pass_timings_message


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


def classify_response(model: Model, answer: Classification, timings: Timings) -> classification_pb2.ClassifyImageResponse:
    """Returns the message of an answer."""
    labels = model.manifest.single_pass.labels
    classes = [
        classification_pb2.ClassProbability(index=index, name=labels[index].name, probability=probability)
        for index, probability in answer.classes
    ]
    return classification_pb2.ClassifyImageResponse(
        classes=classes,
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
