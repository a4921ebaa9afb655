# SPDX-License-Identifier: Apache-2.0
"""Converts between the clients' values and the messages on the wire; no other module does."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from attnserve.v1 import caption_pb2, decoding_pb2, manifest_pb2, model_pb2, translation_pb2
from attnserve_client.errors import AttnserveError, ClientClosed, InvalidRequest
from attnserve_client.fields import new_request, set_field, set_fields
from attnserve_client.image_files import ImageFile, image_bytes, is_file, is_pillow
from attnserve_client.options import Asked
from attnserve_client.types import (
    Caption,
    CaptionDelta,
    FinishReason,
    Hypothesis,
    ImageGrid,
    Model,
    ModelDetails,
    ModelState,
    Piece,
    ScoreNormalization,
    Task,
    Timings,
    Translation,
    TranslationDelta,
)

_E = TypeVar("_E", bound=enum.StrEnum)
_M = TypeVar("_M", bound=Message)
_V = TypeVar("_V")
_I = TypeVar("_I")
_C = TypeVar("_C", caption_pb2.CaptionRequest, caption_pb2.CaptionStreamRequest)
_R = TypeVar("_R", translation_pb2.TranslateRequest, translation_pb2.TranslateStreamRequest)


def translate_request(kind: type[_R], text: str, model: str, version: str, asked: Asked) -> _R:
    """Returns a request of the given type.

    Raises:
        InvalidRequest: the text is no string or has lone surrogates, or another field has a value that cannot be sent.
    """
    request = new_request(kind, model, version, options=asked.options)
    set_field(request, "text", text)
    set_fields(request, asked.fields)
    return request


def caption_request(kind: type[_C], image: ImageFile, model: str, version: str, asked: Asked) -> _C:
    """Returns a request of the given type.

    Raises:
        InvalidRequest: a field has a value that cannot be sent.
        OSError: the file cannot be read.
    """
    request = new_request(kind, model, version, image=image_bytes(image), options=asked.options)
    set_fields(request, asked.fields)
    return request


def requests_of(make: Callable[[_I], _M], items: Iterable[_I], *, are_texts: bool = False) -> Iterator[_M | AttnserveError]:
    """Returns an iterator over a request for each item; an error in the place of an item that cannot be read or sent.

    Args:
        make: makes one request, and raises an ``AttnserveError`` or an ``OSError``.
        items: texts, images or clips.
        are_texts: they are texts, which may be the lines of a file object.

    Raises:
        InvalidRequest: ``items`` is one text, path, file or image, or cannot be iterated over.
    """
    kind, is_lines = type(items).__name__, are_texts and hasattr(items, "read")
    if is_pillow(items) or (is_file(items) and not is_lines):
        raise InvalidRequest(f"several items are expected, not one {kind}: put it in a list")
    try:
        return _requests(make, iter(items))
    except TypeError as error:
        raise InvalidRequest(f"several items are expected, not {kind}") from error


def _requests(make: Callable[[_I], _M], items: Iterable[_I]) -> Iterator[_M | AttnserveError]:
    for item in items:
        request: _M | AttnserveError
        try:
            request = make(item)
        except AttnserveError as error:
            request = error
        except OSError as error:
            request = InvalidRequest(f"cannot read {item}: {error.strerror or error}", field="image")
        yield request


def translation_from_proto(message: translation_pb2.TranslateResponse) -> Translation:
    """Returns the translation in a response.

    Raises:
        AttnserveError: the response violates the protocol.
    """
    return Translation(
        hypotheses=_hypotheses(message.hypotheses),
        source_pieces=_pieces(message.source_pieces),
        model=message.model,
        version=message.version,
        timings=_timings(message.timings),
    )


def caption_from_proto(message: caption_pb2.CaptionResponse) -> Caption:
    """Returns the caption in a response.

    Raises:
        AttnserveError: the response violates the protocol.
    """
    grid = message.grid
    caption = Caption(
        hypotheses=_hypotheses(message.hypotheses),
        grid=ImageGrid(grid.rows, grid.columns, grid.image_width, grid.image_height),
        model=message.model,
        version=message.version,
        timings=_timings(message.timings),
    )
    for each in caption.hypotheses:
        if each.attention is not None and each.attention.shape[-1] != grid.rows * grid.columns:
            text = f"an attention over {each.attention.shape[-1]} cells for a grid of {grid.rows} × {grid.columns}"
            raise AttnserveError(f"the server's answer has {text}", code="INTERNAL")
    return caption


def caption_event_from_proto(message: caption_pb2.CaptionStreamResponse) -> CaptionDelta | Caption | None:
    """Returns the value of a stream's message; None for an event that this client does not know."""
    match message.WhichOneof("event"):
        case "delta":
            return CaptionDelta(message.delta.text, _pieces(message.delta.pieces))
        case "result":
            return caption_from_proto(message.result)
        case _:
            return None


def value_of_outcome(outcome: _M | AttnserveError, make: Callable[[_M], _V], is_raising: bool) -> _V | AttnserveError:
    """Returns the value or the error of one of many calls; raises the error if ``is_raising``, or if the client is closed."""
    if not isinstance(outcome, AttnserveError):
        return make(outcome)
    if is_raising or isinstance(outcome, ClientClosed):
        raise outcome
    return outcome


def event_from_proto(message: translation_pb2.TranslateStreamResponse) -> TranslationDelta | Translation | None:
    """Returns the value of a stream's message; None for an event that this client does not know."""
    match message.WhichOneof("event"):
        case "delta":
            return TranslationDelta(message.delta.text, _pieces(message.delta.pieces))
        case "result":
            return translation_from_proto(message.result)
        case _:
            return None


def attention_array(maps: Sequence[decoding_pb2.Attention]) -> NDArray[np.float32] | None:
    """Returns a hypothesis' attention as one read-only array, with the shape of ``Hypothesis.attention``; None for no maps.

    Raises:
        AttnserveError: the maps differ in shape, a map is duplicated, or the map of a layer or head is missing.
    """
    if not maps:
        return None
    if len(maps) == 1 and not maps[0].HasField("layer"):
        array = _matrix(maps[0])  # (T_tgt, T_src)
    else:
        placed = {(one.layer, one.head): _matrix(one) for one in maps}
        shape = tuple(max(axis) + 1 for axis in zip(*placed, strict=True))  # (layers, heads)
        if not len(placed) == len(maps) == math.prod(shape) or len({matrix.shape for matrix in placed.values()}) > 1:
            raise AttnserveError("the attention in the server's answer is not one map for every layer and head", code="INTERNAL")
        matrices = np.stack([placed[place] for place in np.ndindex(shape)])
        array = matrices.reshape(*shape, *matrices.shape[1:])  # (layers, heads, T_tgt, T_src)
    array.setflags(write=False)
    return array


def models_from_proto(message: model_pb2.ListModelsResponse) -> list[Model]:
    """Returns the models that a server lists, in its order."""
    return [_model(model) for model in message.models]


def details_from_proto(message: model_pb2.GetModelResponse) -> ModelDetails:
    """Returns one model with its manifest."""
    return ModelDetails(_model(message.model), message.manifest)


def _timings(message: decoding_pb2.Timings) -> Timings:
    return Timings(
        queue_s=message.queue_seconds,
        encode_s=message.encode_seconds,
        decode_s=message.decode_seconds,
        total_s=message.total_seconds,
    )


def _hypotheses(messages: Sequence[decoding_pb2.Hypothesis]) -> tuple[Hypothesis, ...]:
    if not messages:
        raise AttnserveError("the server's answer has no hypothesis", code="INTERNAL")
    return tuple(_hypothesis(message) for message in messages)


def _hypothesis(message: decoding_pb2.Hypothesis) -> Hypothesis:
    return Hypothesis(
        text=message.text,
        pieces=_pieces(message.pieces),
        score=message.score,
        normalization=_member(ScoreNormalization, decoding_pb2.ScoreNormalization, message.normalization, "SCORE_NORMALIZATION_"),
        finish_reason=_member(FinishReason, decoding_pb2.FinishReason, message.finish_reason, "FINISH_REASON_"),
        attention=attention_array(message.attention),
    )


def _pieces(messages: Iterable[decoding_pb2.Piece]) -> tuple[Piece, ...]:
    return tuple(
        Piece(message.text, message.begin, message.end, message.copied_from if message.HasField("copied_from") else None)
        for message in messages
    )


def _matrix(message: decoding_pb2.Attention) -> NDArray[np.float32]:
    weights = np.array(message.weights, dtype=np.float32)
    if weights.size != message.num_target * message.num_source:
        raise AttnserveError(
            f"the server's answer has {weights.size} weights for an attention of {message.num_target} × {message.num_source}",
            code="INTERNAL",
        )
    return weights.reshape(message.num_target, message.num_source)


def _model(message: model_pb2.Model) -> Model:
    return Model(
        id=message.id,
        version=message.version,
        task=_member(Task, manifest_pb2.Task, message.task, "TASK_"),
        architecture=message.architecture,
        variant=message.variant,
        state=_member(ModelState, model_pb2.ModelState, message.state, "MODEL_STATE_"),
        max_source_tokens=message.max_source_tokens,
        max_target_tokens=message.max_target_tokens,
        max_beam_size=message.max_beam_size,
    )


def _member(kind: type[_E], wire_enum: Any, value: int, prefix: str) -> _E:
    """Returns the member with the wire value's name; ``UNSPECIFIED`` for values that are newer than this client."""
    name = wire_enum.Name(value).removeprefix(prefix) if value in wire_enum.values() else ""
    return kind[name if name in kind.__members__ else "UNSPECIFIED"]
