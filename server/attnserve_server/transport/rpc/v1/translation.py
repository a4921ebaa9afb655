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
from attnserve_server.transport.rpc.v1.decoding import Fields, asked_options, hypothesis_fields, piece_fields, timings_fields

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
    return translation_pb2.TranslateStreamResponse(result=_response_fields(model, *event))


def translate_response(model: Model, answer: Translation, timings: Timings) -> translation_pb2.TranslateResponse:
    """Returns the message of a whole answer."""
    return translation_pb2.TranslateResponse(**_response_fields(model, answer, timings))


def _response_fields(model: Model, answer: Translation, timings: Timings) -> Fields:
    return {
        "hypotheses": [hypothesis_fields(each) for each in answer.hypotheses],
        "source_pieces": piece_fields(answer.source_pieces),
        "model": model.id,
        "version": model.version,
        "timings": timings_fields(timings),
    }


def translate_delta(delta: TextDelta) -> translation_pb2.TranslateStreamResponse:
    """Returns the message of a part of a streamed answer."""
    return translation_pb2.TranslateStreamResponse(delta={"text": delta.text, "pieces": piece_fields(delta.pieces)})


def _asked(request: AnyRequest, *, is_streamed: bool) -> Asked:
    asked = AskedTranslation(request.text, asked_options(request.options), request.split_sentences)
    return Asked(asked, request.model, request.version, request.priority, is_streamed)
