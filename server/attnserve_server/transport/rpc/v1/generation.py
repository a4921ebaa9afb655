# SPDX-License-Identifier: Apache-2.0
"""GenerationService: converts messages to generation requests, and answers to messages. Must not import grpc."""

from __future__ import annotations

import functools

from attnserve.v1 import generation_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked, DataPlane
from attnserve_server.metrics.timings import Timings
from attnserve_server.tasks.answers import GeneratedAttention, Generation, GenerationForm
from attnserve_server.tasks.generation import AskedGeneration
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import GENERATION
from attnserve_server.transport.rpc.v1.packed import add_floats
from attnserve_server.transport.rpc.v1.single_pass import pass_timings_message

_FORM = {
    generation_pb2.GENERATION_FORM_UNSPECIFIED: GenerationForm.IMAGES,
    generation_pb2.GENERATION_FORM_IMAGES: GenerationForm.IMAGES,
    generation_pb2.GENERATION_FORM_GRID: GenerationForm.GRID,
}


class GenerationServicer:
    """Answers the RPCs of ``attnserve.v1.GenerationService``.

    Args:
        plane: handles the requests.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def generate_image(
        self, request: generation_pb2.GenerateImageRequest, call: Call
    ) -> generation_pb2.GenerateImageResponse:
        """Answers with images of a class."""
        pending = await self._plane.submit(call, GENERATION, _asked(request))
        return await pending.answer(functools.partial(generate_response, pending.model))


def generate_response(model: Model, answer: Generation, timings: Timings) -> generation_pb2.GenerateImageResponse:
    """Returns the message of an answer. Runs on a thread where the answer was made."""
    width, height = answer.size
    return generation_pb2.GenerateImageResponse(
        images=answer.files,
        width=width,
        height=height,
        count=answer.count,
        columns=answer.columns,
        class_index=answer.label,
        seed=answer.seed,
        attention=_attention_message(answer.attention) if answer.attention is not None else None,
        model=model.id,
        version=model.version,
        timings=pass_timings_message(timings, answer.batch_size),
    )


def _attention_message(attention: GeneratedAttention) -> generation_pb2.GenerationAttention:
    message = generation_pb2.GenerationAttention(rows=attention.rows, columns=attention.columns, cell=attention.cell)
    for each in attention.maps:
        add_floats(message.maps.add(), generation_pb2.GenerationMap.WEIGHTS_FIELD_NUMBER, each)
    return message


def _asked(request: generation_pb2.GenerateImageRequest) -> Asked:
    asked = AskedGeneration(
        request.class_name,
        request.count if request.HasField("count") else None,
        request.seed if request.HasField("seed") else None,
        _FORM.get(request.form, int(request.form)),
        (request.attention_at.x, request.attention_at.y) if request.HasField("attention_at") else None,
    )
    return Asked(asked, request.model, request.version, request.priority)
