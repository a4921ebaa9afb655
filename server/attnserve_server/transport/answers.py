# SPDX-License-Identifier: Apache-2.0
"""From answers of the engine to messages on the wire. Runs on the event loop, so it is kept fast. Must not import grpc."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnserve.v1 import decoding_pb2, model_pb2, translation_pb2
from attnserve_server.request import AttentionWeights, DecodeOptions, FinishReason, Hypothesis, RequestFinished
from attnserve_server.transport.interface import ServedModel, Source, Span

_FINISH_REASON = {
    FinishReason.STOP: decoding_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: decoding_pb2.FINISH_REASON_LENGTH,
}

_WEIGHTS_TAG = bytes([decoding_pb2.Attention.WEIGHTS_FIELD_NUMBER << 3 | 2])
"""Field number and wire type (length-delimited) of the packed weights."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """One translation that the front has taken: what is needed to make its answer."""

    model: ServedModel
    source: Source
    options: DecodeOptions
    received_at: float
    """The event RECEIVED of ``metrics.intervals``."""
    queued_at: float
    """The event QUEUED."""

    def timings(self, finished: RequestFinished) -> decoding_pb2.Timings:
        """Returns where the time went until now, when the answer is made."""
        encoded_at = finished.admitted_at + finished.encode_s
        return decoding_pb2.Timings(
            queue_seconds=max(finished.admitted_at - self.queued_at, 0.0),
            encode_seconds=finished.encode_s,
            decode_seconds=max(finished.finished_at - encoded_at, 0.0),
            total_seconds=time.monotonic() - self.received_at,
        )


def translate_response(admitted: Admitted, finished: RequestFinished) -> translation_pb2.TranslateResponse:
    """Returns the whole answer, best hypothesis first."""
    model = admitted.model
    return translation_pb2.TranslateResponse(
        hypotheses=[_hypothesis(h, model, admitted.options) for h in finished.hypotheses],
        source_pieces=_pieces(admitted.source.pieces),
        model=model.id,
        version=model.version,
        timings=admitted.timings(finished),
    )


def translation_delta(text: str, pieces: Sequence[Span]) -> translation_pb2.TranslateStreamResponse:
    """Returns a stream's message with the next part of the text."""
    delta = translation_pb2.TranslationDelta(text=text, pieces=_pieces(pieces))
    return translation_pb2.TranslateStreamResponse(delta=delta)


def model_message(model: ServedModel) -> model_pb2.Model:
    """Returns a model's state."""
    return model_pb2.Model(
        id=model.id,
        version=model.version,
        task=model.manifest.task,
        architecture=model.manifest.architecture,
        variant=model.variant,
        state=model_pb2.MODEL_STATE_READY if model.is_ready else model_pb2.MODEL_STATE_LOADING,
        max_source_tokens=model.max_source_tokens,
        max_target_tokens=model.max_target_tokens,
        max_beam_size=model.max_beam_size,
    )


def _hypothesis(hypothesis: Hypothesis, model: ServedModel, options: DecodeOptions) -> decoding_pb2.Hypothesis:
    text, pieces = model.translator.render(hypothesis.tokens)
    is_sum = options.length_penalty == 0.0  # any length to the power 0 is 1
    return decoding_pb2.Hypothesis(
        text=text,
        pieces=_pieces(pieces),
        score=hypothesis.score,
        normalization=decoding_pb2.SCORE_NORMALIZATION_SUM if is_sum else decoding_pb2.SCORE_NORMALIZATION_LENGTH,
        finish_reason=_FINISH_REASON[hypothesis.finish_reason],
        attention=list(_attentions(hypothesis.attention)) if hypothesis.attention is not None else [],
    )


def _pieces(spans: Iterable[Span]) -> list[decoding_pb2.Piece]:
    return [decoding_pb2.Piece(text=span.text, begin=span.begin, end=span.end) for span in spans]


def _attentions(attention: AttentionWeights) -> Iterator[decoding_pb2.Attention]:
    """Yields one matrix, or one for every layer and head where the weights have such axes."""
    weights = np.frombuffer(attention.data, dtype=np.float32).reshape(attention.shape)
    if weights.ndim == 2:  # (T_tgt, T_src)
        yield _matrix(weights)
        return
    for layer in range(weights.shape[1]):  # (T_tgt, layers, heads, T_src)
        for head in range(weights.shape[2]):
            matrix = _matrix(weights[:, layer, head, :])
            matrix.layer, matrix.head = layer, head
            yield matrix


def _matrix(weights: npt.NDArray[np.float32]) -> decoding_pb2.Attention:
    """Returns the message of one matrix.

    Its packed floats are little-endian on the wire, just as in memory, so they are merged as bytes: for 30 x 30 weights that takes
    2 µs, where a list of Python numbers takes 40.
    """
    message = decoding_pb2.Attention(num_target=weights.shape[0], num_source=weights.shape[1])
    packed = weights.astype("<f4", copy=False).tobytes()
    message.MergeFromString(_WEIGHTS_TAG + _varint(len(packed)) + packed)
    return message


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
