# SPDX-License-Identifier: Apache-2.0
"""CaptionService: checks a request, decodes its image, hands it to the front, and makes its answer. Must not import grpc."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from attnserve.v1 import caption_pb2, manifest_pb2
from attnserve_server.dataplane.offload import Offload
from attnserve_server.errors import InvalidRequest
from attnserve_server.request import DecodeOptions, SequencePayload
from attnserve_server.transport.interface import AnyFront, Limits, Picture, RequestRecorder, ServedModel, Submit, Ticket
from attnserve_server.transport.joining import Part
from attnserve_server.transport.rpc.calls import Call
from attnserve_server.transport.rpc.v1 import convert
from attnserve_server.transport.rpc.v1.answers import Admitted, NoText, caption_delta, caption_response

AnyRequest = caption_pb2.CaptionRequest | caption_pb2.CaptionStreamRequest
StreamResponses = AsyncGenerator[caption_pb2.CaptionStreamResponse, None]


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A request that waits for its answer."""

    admitted: Admitted
    picture: Picture
    ticket: Ticket


class CaptionServicer:
    """Answers the RPCs of ``attnserve.v1.CaptionService``.

    Args:
        front: takes the requests.
        decoding: runs the image decoders.
        limits: of what a request may have.
        recorder: takes the times of preparation.
    """

    def __init__(
        self, front: AnyFront, decoding: Offload, limits: Limits, recorder: RequestRecorder, submit: Submit | None = None
    ) -> None:
        self._front, self._decoding, self._limits, self._recorder = front, decoding, limits, recorder
        self._submit_to = submit or front.submit

    async def caption(self, request: caption_pb2.CaptionRequest, call: Call) -> caption_pb2.CaptionResponse:
        """Answers when the whole caption stands."""
        submitted = await self._submit(request, call, is_streamed=False)
        return caption_response(submitted.admitted, await submitted.ticket.result(), submitted.picture)

    async def caption_stream(self, request: caption_pb2.CaptionStreamRequest, call: Call) -> StreamResponses:
        """Yields parts of the caption as they become certain, then the whole answer."""
        submitted = await self._submit(request, call, is_streamed=True)
        renderer = submitted.admitted.model.task.stream()
        async for event in submitted.ticket.deltas():
            text, pieces = renderer.push(event.tokens, event.copied_from)
            if text or pieces:
                yield caption_delta(text, pieces)
        finished = await submitted.ticket.result()
        best = finished.outcome.hypotheses[0]
        text, pieces = renderer.finish(best.tokens, best.copied_from)
        if text or pieces:
            yield caption_delta(text, pieces)
        yield caption_pb2.CaptionStreamResponse(result=caption_response(submitted.admitted, finished, submitted.picture))

    async def _submit(self, request: AnyRequest, call: Call, is_streamed: bool) -> _Submitted:
        model, options = self._check(request, call)
        terms = call.terms(is_streamed=is_streamed, priority=convert.check_priority(request.priority))
        picture: Picture = await self._decoding.run(functools.partial(model.task.read, request.image, self._limits.image))
        ticket = call.submit(self._submit_to, model, SequencePayload.of(picture.source, options), terms)
        self._recorder.image_prepared(model.id, model.version, ticket.received_at - call.received_at)
        admitted = Admitted(model, [Part(NoText())], options, call.received_at, ticket.received_at)
        return _Submitted(admitted, picture, ticket)

    def _check(self, request: AnyRequest, call: Call) -> tuple[ServedModel, DecodeOptions]:
        """Everything for which the image need not be decoded."""
        model: ServedModel = self._front.resolve(request.model, request.version, manifest_pb2.TASK_CAPTION)
        call.model = model
        if model.manifest.task != manifest_pb2.TASK_CAPTION:
            raise InvalidRequest(f"the model {model.id} does not describe images", field="model")
        prefix = convert.check_prefix(request.options.prefix, self._limits.max_text_chars, "")
        options = convert.decode_options(request.options, model)
        return model, convert.with_prefix(options, model.task.encode_prefix(prefix), model) if prefix else options
