# SPDX-License-Identifier: Apache-2.0
"""TranslationService: checks a request, tokenizes it, hands it to the front, and makes its answer. Must not import grpc."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from attnserve.v1 import manifest_pb2, translation_pb2
from attnserve_server.errors import InvalidRequest
from attnserve_server.request import DecodeOptions
from attnserve_server.transport.answers import Admitted, translate_response, translation_delta
from attnserve_server.transport.convert import check_text, decode_options
from attnserve_server.transport.interface import AnyFront, ServedModel, Ticket
from attnserve_server.transport.rpc import Call
from attnserve_server.transport.tokenizing import Tokenizing

AnyRequest = translation_pb2.TranslateRequest | translation_pb2.TranslateStreamRequest
StreamResponses = AsyncGenerator[translation_pb2.TranslateStreamResponse, None]


class TranslationServicer:
    """Answers the RPCs of ``attnserve.v1.TranslationService``.

    Args:
        front: takes the requests.
        tokenizing: runs the tokenizer.
        max_text_chars: longer texts are refused.
    """

    def __init__(self, front: AnyFront, tokenizing: Tokenizing, max_text_chars: int) -> None:
        self._front, self._tokenizing, self._max_text_chars = front, tokenizing, max_text_chars

    async def translate(self, request: translation_pb2.TranslateRequest, call: Call) -> translation_pb2.TranslateResponse:
        """Answers when the whole translation stands."""
        model, options = self._check(request, call)
        admitted, ticket = await self._submit(request, call, model, options)
        finished = await ticket.result()
        return translate_response(admitted, finished)

    async def translate_stream(self, request: translation_pb2.TranslateStreamRequest, call: Call) -> StreamResponses:
        """Yields parts of a greedy translation as they come, then the whole answer; of a beam search the answer alone."""
        model, options = self._check(request, call)
        is_streamed = options.beam_size == 1
        admitted, ticket = await self._submit(request, call, model, options, is_streamed)
        if is_streamed:
            renderer = model.translator.stream()
            async for event in ticket.deltas():
                text, pieces = renderer.push(event.tokens)
                if text or pieces:
                    yield translation_delta(text, pieces)
        finished = await ticket.result()
        yield translation_pb2.TranslateStreamResponse(result=translate_response(admitted, finished))

    def _check(self, request: AnyRequest, call: Call) -> tuple[ServedModel, DecodeOptions]:
        """Returns the model and the options of a request that keeps all rules but the model's limit of pieces."""
        model: ServedModel = self._front.resolve(request.model, request.version)
        call.model = model
        if model.manifest.task != manifest_pb2.TASK_TRANSLATION:
            raise InvalidRequest(f"the model {model.id} does not translate", field="model")
        check_text(request.text, self._max_text_chars)
        return model, decode_options(request.options, model)

    async def _submit(
        self, request: AnyRequest, call: Call, model: ServedModel, options: DecodeOptions, is_streamed: bool = False
    ) -> tuple[Admitted, Ticket]:
        source = await self._tokenizing.encode(model.translator, request.text)
        ticket = call.submit(self._front, model, source.tokens, options, is_streamed)
        return Admitted(model, source, options, call.received_at, ticket.received_at), ticket
