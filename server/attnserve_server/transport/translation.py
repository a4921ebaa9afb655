# SPDX-License-Identifier: Apache-2.0
"""TranslationService: one text to a translation, whole or as a stream. Called through ``rpc.py``; must not import grpc."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Executor

from attnserve.v1 import translation_pb2
from attnserve_server.request import DecodeOptions
from attnserve_server.transport import answers, convert
from attnserve_server.transport.interface import Front, ServedModel, Source
from attnserve_server.transport.rpc import Call

INLINE_CHARS = 512
"""Texts up to this length are tokenized on the event loop: that takes some 20 µs, less than the way to a thread and back."""

Request = translation_pb2.TranslateRequest | translation_pb2.TranslateStreamRequest


class TranslationServicer:
    """The methods of TranslationService.

    Args:
        front: takes the requests.
        max_text_chars: longer texts are refused.
        executor: tokenizes longer texts off the event loop.
    """

    def __init__(self, front: Front, max_text_chars: int, executor: Executor) -> None:
        self._front, self._max_text_chars, self._executor = front, max_text_chars, executor

    async def translate(self, request: translation_pb2.TranslateRequest, call: Call) -> translation_pb2.TranslateResponse:
        """Answers when the whole translation stands."""
        model, options, source = await self._read(request, call)
        ticket = self._front.submit(model, source.tokens, options, deadline=call.deadline, is_streamed=False)
        finished = await call.watch(ticket).result()
        return answers.translation(model, source, options, finished, ticket.received_at)

    async def translate_stream(
        self, request: translation_pb2.TranslateStreamRequest, call: Call
    ) -> AsyncGenerator[translation_pb2.TranslateStreamResponse, None]:
        """Yields pieces as they come, where the beam is one wide, then the whole answer."""
        model, options, source = await self._read(request, call)
        is_streamed = options.beam_size == 1
        ticket = call.watch(
            self._front.submit(model, source.tokens, options, deadline=call.deadline, is_streamed=is_streamed)
        )
        if is_streamed:
            renderer = model.translator.stream()
            async for tokens in ticket.deltas():
                text, spans = renderer.push(tokens)
                if text or spans:
                    yield answers.delta(text, spans)
        finished = await ticket.result()
        whole = answers.translation(model, source, options, finished, ticket.received_at)
        yield translation_pb2.TranslateStreamResponse(result=whole)

    async def _read(self, request: Request, call: Call) -> tuple[ServedModel, DecodeOptions, Source]:
        model = self._front.resolve(request.model, request.version)
        call.model = model
        options = convert.decode_options(request.options, model)
        text = convert.check_text(request.text, self._max_text_chars)
        if len(text) <= INLINE_CHARS:
            return model, options, model.translator.encode(text)
        loop = asyncio.get_running_loop()
        return model, options, await loop.run_in_executor(self._executor, model.translator.encode, text)
