# SPDX-License-Identifier: Apache-2.0
"""TranslationService: converts messages to translation requests, and answers to messages. Must not import grpc."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator

from attnserve.v1 import translation_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import Asked, DataPlane
from attnserve_server.metrics.timings import Timings
from attnserve_server.tasks.answers import TextDelta, Translation
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import TRANSLATION
from attnserve_server.tasks.translation import AskedTranslation
from attnserve_server.transport.rpc.v1.decoding import asked_options, hypothesis_message, piece_messages, timings_message

AnyRequest = translation_pb2.TranslateRequest | translation_pb2.TranslateStreamRequest
StreamResponses = AsyncGenerator[translation_pb2.TranslateStreamResponse, None]


class TranslationServicer:
    """Answers the RPCs of ``attnserve.v1.TranslationService``.

    Args:
        plane: handles the requests.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def translate(self, request: translation_pb2.TranslateRequest, call: Call) -> translation_pb2.TranslateResponse:
        """Answers with the whole translation."""
        pending = await self._plane.submit(call, TRANSLATION, _asked(request, is_streamed=False))
        return await pending.answer(functools.partial(translate_response, pending.model))

    async def translate_stream(self, request: translation_pb2.TranslateStreamRequest, call: Call) -> StreamResponses:
        """Returns parts of the translation as they become certain, then the whole answer."""
        pending = await self._plane.submit(call, TRANSLATION, _asked(request, is_streamed=True))
        return pending.stream(functools.partial(_stream_response, pending.model))


def _stream_response(model: Model, event: TextDelta | tuple[Translation, Timings]) -> translation_pb2.TranslateStreamResponse:
    if isinstance(event, TextDelta):
        return translate_delta(event)
    return translation_pb2.TranslateStreamResponse(result=translate_response(model, *event))


def translate_response(model: Model, answer: Translation, timings: Timings) -> translation_pb2.TranslateResponse:
    """Returns the message of a whole answer."""
    return translation_pb2.TranslateResponse(
        hypotheses=[hypothesis_message(each) for each in answer.hypotheses],
        source_pieces=piece_messages(answer.source_pieces),
        model=model.id,
        version=model.version,
        timings=timings_message(timings),
    )


def translate_delta(delta: TextDelta) -> translation_pb2.TranslateStreamResponse:
    """Returns the message of a part of a streamed answer."""
    message = translation_pb2.TranslationDelta(text=delta.text, pieces=piece_messages(delta.pieces))
    return translation_pb2.TranslateStreamResponse(delta=message)


def _asked(request: AnyRequest, *, is_streamed: bool) -> Asked:
    asked = AskedTranslation(request.text, asked_options(request.options), request.split_sentences)
    return Asked(asked, request.model, request.version, request.priority, is_streamed)
