# SPDX-License-Identifier: Apache-2.0
"""How a request is decoded, as both clients take it: a value or keywords. What is None is left to the server."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypedDict

from attnserve.v1 import decoding_pb2
from attnserve_client.errors import InvalidRequest

AttentionDetail = Literal["none", "mean", "all"]
OnError = Literal["raise", "return"]

_DETAILS: dict[str | bool, decoding_pb2.AttentionDetail] = {
    "none": decoding_pb2.ATTENTION_DETAIL_NONE,
    "mean": decoding_pb2.ATTENTION_DETAIL_MEAN,
    "all": decoding_pb2.ATTENTION_DETAIL_ALL,
    False: decoding_pb2.ATTENTION_DETAIL_NONE,
    True: decoding_pb2.ATTENTION_DETAIL_MEAN,
}


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of a request; the server checks their ranges against the model.

    Attributes:
        beam_size: hypotheses kept at each step; 1 is greedy search.
        num_hypotheses: hypotheses in the answer, at most ``beam_size``.
        length_penalty: hypotheses are ranked by the sum of their log-probabilities over length to this power.
        max_tokens: target pieces at most, the end symbol not counted.
        return_attention: "none", "mean" (one matrix) or "all" (one for every layer and head); True for "mean".
    """

    beam_size: int | None = None
    num_hypotheses: int | None = None
    length_penalty: float | None = None
    max_tokens: int | None = None
    return_attention: AttentionDetail | bool = "none"


class DecodeKeywords(TypedDict, total=False):
    """The fields of ``DecodeOptions`` as keywords of the clients' methods."""

    beam_size: int | None
    num_hypotheses: int | None
    length_penalty: float | None
    max_tokens: int | None
    return_attention: AttentionDetail | bool


def options_to_proto(options: DecodeOptions | None, keywords: DecodeKeywords) -> decoding_pb2.DecodeOptions:
    """Returns the message of ``options`` with the keywords in place of its fields; what is None stays unset.

    Raises:
        InvalidRequest: an option has a value that the wire cannot carry.
        TypeError: there is no such option.
    """
    merged, message = replace(options or DecodeOptions(), **keywords), decoding_pb2.DecodeOptions()
    if merged.return_attention not in _DETAILS:
        raise InvalidRequest(
            f'return_attention must be "none", "mean" or "all", not {merged.return_attention!r}', field="options.return_attention"
        )
    message.return_attention = _DETAILS[merged.return_attention]
    for name in (field.name for field in fields(merged) if field.name != "return_attention"):
        value = getattr(merged, name)
        if value is None:
            continue
        try:
            setattr(message, name, value)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{name} cannot be {value!r}: {error}", field=f"options.{name}") from error
    return message


def is_raising(on_error: str) -> bool:
    """Tells whether errors are raised, rather than returned.

    Raises:
        ValueError: it is neither "raise" nor "return".
    """
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')
    return on_error == "raise"
