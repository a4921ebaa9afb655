# SPDX-License-Identifier: Apache-2.0
"""TranslationService: checks a request, tokenizes it, hands it to the front, and makes its answer. Must not import grpc.

A text that is split into sentences is as many requests to the front, which are answered and fail together.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from attnserve.v1 import manifest_pb2, translation_pb2
from attnserve_server.dataplane.tokenizing import Tokenizing
from attnserve_server.errors import InvalidRequest
from attnserve_server.request import DecodeOptions, SequenceDone, SequencePayload
from attnserve_server.transport import joining
from attnserve_server.transport.interface import AnyFront, Prefix, ServedModel, Submit, Ticket, TranslationTask
from attnserve_server.transport.joining import Part
from attnserve_server.transport.rpc.calls import Call
from attnserve_server.transport.rpc.v1 import convert
from attnserve_server.transport.rpc.v1.answers import Admitted, Deltas, translate_response

AnyRequest = translation_pb2.TranslateRequest | translation_pb2.TranslateStreamRequest
StreamResponses = AsyncGenerator[translation_pb2.TranslateStreamResponse, None]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A request that keeps all rules for which it need not be tokenized."""

    model: ServedModel
    options: DecodeOptions
    priority: int


class TranslationServicer:
    """Answers the RPCs of ``attnserve.v1.TranslationService``.

    Args:
        front: takes the requests.
        tokenizing: runs the tokenizer.
        max_text_chars: longer texts are refused.
    """

    def __init__(self, front: AnyFront, tokenizing: Tokenizing, max_text_chars: int, submit: Submit | None = None) -> None:
        self._front, self._tokenizing, self._max_text_chars = front, tokenizing, max_text_chars
        self._submit = submit or front.submit

    async def translate(self, request: translation_pb2.TranslateRequest, call: Call) -> translation_pb2.TranslateResponse:
        """Answers when the whole translation stands."""
        admitted, tickets = await self._take(request, call, is_streamed=False)
        return translate_response(admitted, await _results(tickets))

    async def translate_stream(self, request: translation_pb2.TranslateStreamRequest, call: Call) -> StreamResponses:
        """Yields parts of the translation as they become certain, then the whole answer."""
        admitted, tickets = await self._take(request, call, is_streamed=True)
        results = asyncio.ensure_future(_results(tickets))
        results.add_done_callback(functools.partial(_fail_together, call))
        try:
            deltas = Deltas()
            for part, ticket in zip(admitted.parts, tickets, strict=True):
                deltas.begin(part)
                renderer = admitted.model.task.stream(part.source.pieces)
                async for event in ticket.deltas():
                    text, pieces = renderer.push(event.tokens, event.copied_from)
                    if text or pieces:
                        yield deltas.message(text, pieces)
                best = (await _own_or_first_error(ticket, results)).outcome.hypotheses[0]
                text, pieces = renderer.finish(best.tokens, best.copied_from)
                if text or pieces:
                    yield deltas.message(text, pieces)
            yield translation_pb2.TranslateStreamResponse(result=translate_response(admitted, await results))
        finally:
            results.cancel()

    def _check(self, request: AnyRequest, call: Call) -> _Checked:
        model: ServedModel = self._front.resolve(request.model, request.version, manifest_pb2.TASK_TRANSLATION)
        call.model = model
        if model.manifest.task != manifest_pb2.TASK_TRANSLATION:
            raise InvalidRequest(f"the model {model.id} does not translate", field="model")
        text = convert.check_text(request.text, self._max_text_chars)
        convert.check_prefix(request.options.prefix, self._max_text_chars - len(text))
        return _Checked(model, convert.decode_options(request.options, model), convert.check_priority(request.priority))

    async def _take(self, request: AnyRequest, call: Call, is_streamed: bool) -> tuple[Admitted, list[Ticket]]:
        checked = self._check(request, call)
        model, options, asked = checked.model, checked.options, request.options.prefix
        read = functools.partial(_read, model.task, request.text, asked, request.split_sentences)
        parts, prefix = await self._tokenizing.run(len(request.text) + len(asked), read)
        if prefix is not None:
            options = convert.with_prefix(options, prefix, model)
        joining.check_attention(parts, options, model)
        terms = call.terms(is_streamed=is_streamed, priority=checked.priority)
        convert.check_lengths([part.source for part in parts], model)
        tickets = [
            call.submit(self._submit, model, SequencePayload(part.source.tokens, convert.of_sentence(options, index)), terms)
            for index, part in enumerate(parts)
        ]
        return Admitted(model, parts, options, call.received_at, tickets[0].received_at), tickets


def _read(task: TranslationTask, text: str, prefix: str, is_split: bool) -> tuple[list[Part], Prefix | None]:
    """Splits and tokenizes."""
    if is_split:
        sentences = convert.check_sentences(task.split(text))
        parts = [Part(task.encode(each.text), each.begin, each.gap) for each in sentences]
    else:
        parts = [Part(task.encode(text))]
    return parts, task.encode_prefix(prefix) if prefix else None


async def _results(tickets: Sequence[Ticket]) -> list[SequenceDone]:
    """Returns all answers; raises the first error as soon as it is there."""
    if len(tickets) == 1:
        return [await tickets[0].result()]
    return await asyncio.gather(*(ticket.result() for ticket in tickets))


def _fail_together(call: Call, results: asyncio.Future[list[SequenceDone]]) -> None:
    """With one part that has failed all the others end, so that nobody waits for them."""
    if not results.cancelled() and results.exception() is not None:
        call.cancel("error")


async def _own_or_first_error(ticket: Ticket, results: asyncio.Future[list[SequenceDone]]) -> SequenceDone:
    """Returns a ticket's answer; raises the error that all failed by, rather than that the ticket was cancelled for it."""
    if results.done():
        results.result()
    return await ticket.result()
