# SPDX-License-Identifier: Apache-2.0
"""From answers of the engine to messages on the wire. Runs on the event loop, so it is kept fast. Must not import grpc."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from attnserve.v1 import caption_pb2, decoding_pb2, model_pb2, translation_pb2
from attnserve_server.request import DecodeOptions, FinishReason, Hypothesis, SequenceDone
from attnserve_server.transport import joining
from attnserve_server.transport.interface import Picture, ServedModel, Span
from attnserve_server.transport.joining import Part

_FINISH_REASON = {
    FinishReason.STOP: decoding_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: decoding_pb2.FINISH_REASON_LENGTH,
}

_WEIGHTS_TAG = bytes([decoding_pb2.Attention.WEIGHTS_FIELD_NUMBER << 3 | 2])
"""Field number and wire type (length-delimited) of the packed weights."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """One request that the front has taken: what is needed to make its answer.

    It has one part for each sentence where the text was split; all have these options, but for the prefix and the seed.
    """

    model: ServedModel
    parts: Sequence[Part]
    options: DecodeOptions
    received_at: float
    """The event RECEIVED of ``metrics.intervals``."""
    queued_at: float
    """The event QUEUED."""

    def timings(self, finished: SequenceDone) -> decoding_pb2.Timings:
        """Returns where the time went until now, when the answer is made."""
        encoded_at = finished.admitted_at + finished.encode_s
        return decoding_pb2.Timings(
            queue_seconds=max(finished.admitted_at - self.queued_at, 0.0),
            encode_seconds=finished.encode_s,
            decode_seconds=max(finished.finished_at - encoded_at, 0.0),
            total_seconds=time.monotonic() - self.received_at,
        )


def translate_response(admitted: Admitted, finished: Sequence[SequenceDone]) -> translation_pb2.TranslateResponse:
    """Returns the whole answer, best hypothesis first; ``finished`` has one entry for each part.

    Raises:
        InvalidRequest: the attention of the parts joined is too large.
    """
    model, num_ranks = admitted.model, max(len(each.outcome.hypotheses) for each in finished)
    chosen = [joining.ranked(finished, rank) for rank in range(num_ranks)]
    num_target = sum(len(each.tokens) for hypotheses in chosen for each in hypotheses)
    joining.check_attention(admitted.parts, admitted.options, model, num_target)
    return translation_pb2.TranslateResponse(
        hypotheses=[_hypothesis(hypotheses, admitted) for hypotheses in chosen],
        source_pieces=[piece for part in admitted.parts for piece in _pieces(part.source.pieces, part.begin)],
        model=model.id,
        version=model.version,
        timings=admitted.timings(joining.whole(finished)),
    )


@dataclass(frozen=True, slots=True)
class NoText:
    """In a part's place of a source text, where the source is an image."""

    tokens: list[int] = field(default_factory=list)
    pieces: list[Span] = field(default_factory=list)


def caption_response(admitted: Admitted, finished: SequenceDone, picture: Picture) -> caption_pb2.CaptionResponse:
    """Returns the whole answer, best hypothesis first; the one part of ``admitted`` has no text."""
    model, image = admitted.model, admitted.model.manifest.image
    return caption_pb2.CaptionResponse(
        hypotheses=[_hypothesis([each], admitted) for each in finished.outcome.hypotheses],
        grid=caption_pb2.ImageGrid(
            rows=image.grid_height, columns=image.grid_width, image_width=picture.width, image_height=picture.height
        ),
        model=model.id,
        version=model.version,
        timings=admitted.timings(finished),
    )


def caption_delta(text: str, pieces: Sequence[Span]) -> caption_pb2.CaptionStreamResponse:
    """Returns the message for what a renderer gave."""
    return caption_pb2.CaptionStreamResponse(delta=caption_pb2.CaptionDelta(text=text, pieces=_pieces(pieces)))


class Deltas:
    """Makes a stream's messages with the next part of the text, from what the renderers of one part after the other give."""

    def __init__(self) -> None:
        self._num_chars = self._begin = self._first_source = 0
        self._gap, self._source_size = "", 0

    def begin(self, part: Part) -> None:
        """What follows is of this part: it stands after all that was sent, and after the characters before the part."""
        self._gap += part.gap
        self._begin = self._num_chars + len(self._gap)
        self._first_source += self._source_size
        self._source_size = len(part.source.pieces)

    def message(self, text: str, pieces: Sequence[Span]) -> translation_pb2.TranslateStreamResponse:
        """Returns the message for what the current part's renderer gave."""
        text, self._gap = self._gap + text, ""
        self._num_chars += len(text)
        delta = translation_pb2.TranslationDelta(text=text, pieces=_pieces(pieces, self._begin, self._first_source))
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


def _hypothesis(hypotheses: Sequence[Hypothesis], admitted: Admitted) -> decoding_pb2.Hypothesis:
    """Returns the message of one hypothesis, given as one for each part."""
    text, pieces, first_source = "", list[decoding_pb2.Piece](), 0
    for part, hypothesis in zip(admitted.parts, hypotheses, strict=True):
        rendered, spans = admitted.model.task.render(hypothesis.tokens, hypothesis.copied_from, part.source.pieces)
        text += part.gap
        pieces += _pieces(spans, len(text), first_source)
        text += rendered
        first_source += len(part.source.pieces)
    attention = joining.joined_attention(hypotheses, admitted.parts)
    return decoding_pb2.Hypothesis(
        text=text,
        pieces=pieces,
        score=joining.joined_score(hypotheses, admitted.options.length_penalty),
        normalization=_normalization(admitted.options),
        finish_reason=_FINISH_REASON[joining.joined_reason(hypotheses)],
        attention=list(_attentions(attention)) if attention is not None else [],
    )


def _normalization(options: DecodeOptions) -> decoding_pb2.ScoreNormalization:
    if options.omit_score:
        return decoding_pb2.SCORE_NORMALIZATION_UNSPECIFIED
    if options.coverage_penalty != 0.0:
        return decoding_pb2.SCORE_NORMALIZATION_COVERAGE
    is_sum = options.length_penalty == 0.0  # any length to the power 0 is 1
    return decoding_pb2.SCORE_NORMALIZATION_SUM if is_sum else decoding_pb2.SCORE_NORMALIZATION_LENGTH


def _pieces(spans: Iterable[Span], begin: int = 0, first_source: int = 0) -> list[decoding_pb2.Piece]:
    """Returns the messages of a part's pieces; the part begins at this character, its source at this source piece."""
    pieces = []
    for span in spans:
        piece = decoding_pb2.Piece(text=span.text, begin=begin + span.begin, end=begin + span.end)
        if span.copied_from is not None:
            piece.copied_from = first_source + span.copied_from
        pieces.append(piece)
    return pieces


def _attentions(weights: npt.NDArray[np.float32]) -> Iterator[decoding_pb2.Attention]:
    """Yields one matrix, or one for every layer and head where the weights have such axes."""
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
