# SPDX-License-Identifier: Apache-2.0
"""CaptionService: converts messages to caption requests, and answers to messages. Must not import grpc."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator

from attnserve.v1 import caption_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked, DataPlane
from attnserve_server.metrics.timings import Timings
from attnserve_server.tasks.answers import Caption, TextDelta
from attnserve_server.tasks.caption import AskedCaption
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import CAPTION
from attnserve_server.transport.rpc.v1.decoding import asked_options, hypothesis_fields, piece_fields, timings_fields

AnyRequest = caption_pb2.CaptionRequest | caption_pb2.CaptionStreamRequest
StreamResponses = AsyncGenerator[caption_pb2.CaptionStreamResponse, None]


class CaptionServicer:
    """Answers the RPCs of ``attnserve.v1.CaptionService``.

    Args:
        plane: handles the requests.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def caption(self, request: caption_pb2.CaptionRequest, call: Call) -> caption_pb2.CaptionResponse:
        """Answers with the whole caption."""
        pending = await self._plane.submit(call, CAPTION, _asked(request, is_streamed=False))
        return await pending.answer(functools.partial(caption_response, pending.model))

    async def caption_stream(self, request: caption_pb2.CaptionStreamRequest, call: Call) -> StreamResponses:
        """Returns parts of the caption as they become certain, then the whole answer."""
        pending = await self._plane.submit(call, CAPTION, _asked(request, is_streamed=True))
        return pending.stream(functools.partial(_stream_response, pending.model))


def _stream_response(model: Model, event: TextDelta | tuple[Caption, Timings]) -> caption_pb2.CaptionStreamResponse:
    if isinstance(event, TextDelta):
        return caption_pb2.CaptionStreamResponse(delta={"text": event.text, "pieces": piece_fields(event.pieces)})
    return caption_pb2.CaptionStreamResponse(result=caption_response(model, *event))


def caption_response(model: Model, answer: Caption, timings: Timings) -> caption_pb2.CaptionResponse:
    """Returns the message of a whole answer."""
    image = model.manifest.image
    return caption_pb2.CaptionResponse(
        hypotheses=[hypothesis_fields(each) for each in answer.hypotheses],
        grid=caption_pb2.ImageGrid(
            rows=image.grid_height, columns=image.grid_width, image_width=answer.width, image_height=answer.height
        ),
        model=model.id,
        version=model.version,
        timings=timings_fields(timings),
    )


def _asked(request: AnyRequest, *, is_streamed: bool) -> Asked:
    asked = AskedCaption(request.image, asked_options(request.options))
    return Asked(asked, request.model, request.version, request.priority, is_streamed)
