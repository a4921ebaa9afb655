# SPDX-License-Identifier: Apache-2.0
"""From requests on the wire to the domain: every rule that a request must keep is here. Must not import grpc."""

from __future__ import annotations

from attnserve.v1 import decoding_pb2
from attnserve_server.errors import InvalidRequest
from attnserve_server.request import AttentionDetail, DecodeOptions
from attnserve_server.transport.interface import ServedModel

MAX_LENGTH_PENALTY = 10.0
"""Far above any useful value; keeps length to this power finite."""

_ATTENTION = {
    decoding_pb2.ATTENTION_DETAIL_UNSPECIFIED: AttentionDetail.NONE,
    decoding_pb2.ATTENTION_DETAIL_NONE: AttentionDetail.NONE,
    decoding_pb2.ATTENTION_DETAIL_MEAN: AttentionDetail.MEAN,
    decoding_pb2.ATTENTION_DETAIL_ALL: AttentionDetail.ALL,
}

_NOT_HONOURED = (("coverage_penalty", 0), ("min_tokens", 0), ("no_repeat_ngram_size", 0), ("repetition_penalty", 1))
"""Options that are refused when they are set, except to the value that changes nothing."""


def check_text(text: str, max_chars: int) -> str:
    """Returns the text.

    Raises:
        InvalidRequest: it is empty, only white space, or longer than the server takes.
    """
    if len(text) > max_chars:
        raise InvalidRequest(f"text must have at most {max_chars} characters; it has {len(text)}", field="text")
    if not text or text.isspace():
        raise InvalidRequest("text must not be empty or only white space", field="text")
    return text


def decode_options(options: decoding_pb2.DecodeOptions, model: ServedModel) -> DecodeOptions:
    """Returns validated options, with the model's defaults where the request has none.

    Raises:
        InvalidRequest: names the first field that is out of range, or is not honoured yet.
    """
    _refuse_not_honoured(options)
    beam_size = _in_range("beam_size", options.beam_size if options.HasField("beam_size") else 1, model.max_beam_size)
    asked = options.num_hypotheses if options.HasField("num_hypotheses") else 1
    num_hypotheses = _in_range("num_hypotheses", asked, beam_size, " (beam_size)")
    limit = model.max_target_tokens
    return DecodeOptions(
        beam_size=beam_size,
        num_hypotheses=num_hypotheses,
        length_penalty=_length_penalty(options),
        max_tokens=_in_range("max_tokens", options.max_tokens if options.HasField("max_tokens") else limit, limit),
        attention=_attention(options, model),
    )


def _refuse_not_honoured(options: decoding_pb2.DecodeOptions) -> None:
    for name, neutral in _NOT_HONOURED:
        if options.HasField(name) and getattr(options, name) != neutral:
            raise _refused(name, f"is not honoured yet; leave it out or set it to {neutral}")
    if options.HasField("sampling"):
        raise _refused("sampling", "is not honoured yet; leave it out")
    if options.prefix:
        raise _refused("prefix", "is not honoured yet; leave it empty")


def _length_penalty(options: decoding_pb2.DecodeOptions) -> float:
    value = options.length_penalty if options.HasField("length_penalty") else 1.0
    if not 0.0 <= value <= MAX_LENGTH_PENALTY:  # false for NaN too
        raise _refused("length_penalty", f"must be a number from 0 to {MAX_LENGTH_PENALTY:g}")
    return value


def _attention(options: decoding_pb2.DecodeOptions, model: ServedModel) -> AttentionDetail:
    detail = _ATTENTION.get(options.return_attention)
    if detail is None:
        raise _refused("return_attention", f"has the unknown value {int(options.return_attention)}")
    if detail is not AttentionDetail.NONE and not model.gives_attention:
        raise _refused("return_attention", f"asks for attention, which {model.id} does not give (variant {model.variant})")
    return detail


def _in_range(name: str, value: int, upper: int, what: str = "") -> int:
    if not 1 <= value <= upper:
        raise _refused(name, f"must be from 1 to {upper}{what}; it is {value}")
    return value


def _refused(name: str, text: str) -> InvalidRequest:
    field = f"options.{name}"
    return InvalidRequest(f"{field} {text}", field=field)
