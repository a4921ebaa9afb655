# SPDX-License-Identifier: Apache-2.0
"""How a request is decoded and served, as both clients take it: a value or keywords. What is None is left to the server."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, cast

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

    Any of ``temperature``, ``top_k``, ``top_p`` and ``seed`` asks for random sampling instead of search, with beam size 1;
    ``temperature=1.0`` is the model's own distribution.

    Of each attribute, the first sentence is also the help text of the command line's option.

    Attributes:
        beam_size: Hypotheses kept at each step; 1 is greedy.
        num_hypotheses: Answers to each: rank, score and text of each. At most ``beam_size``; with sampling, independent draws.
        length_penalty: Exponent of the length that scores are divided by. A score is the sum of the pieces' log-probabilities.
        coverage_penalty: Weight of the coverage penalty: prefer answers that leave nothing out. By Wu et al. (2016), eq. 14; it
            needs a model with attention.
        max_tokens: Pieces of an answer at most. The prefix is counted, the end symbol is not.
        min_tokens: Pieces of an answer at least. The prefix is counted.
        no_repeat_ngram_size: No N pieces in a row twice in an answer; 0 allows all.
        repetition_penalty: Above 1: pieces that are there already become less probable. Their logits are divided by this, or
            multiplied where negative.
        temperature: Below 1 the probable becomes more so, above 1 less. It divides the logits before a piece is drawn.
        top_k: Draw from the N most probable pieces only; 0 for all.
        top_p: Draw from the fewest pieces only that have this probability together.
        seed: The same seed, the same answer. None draws anew at every call.
        prefix: What each answer must begin with.
        return_attention: "none", "mean" (one matrix) or "all" (one for every layer and head); True for "mean".
        omit_score: Leave the score out (0): greedy search is up to a tenth cheaper without.
    """

    beam_size: int | None = None
    num_hypotheses: int | None = None
    length_penalty: float | None = None
    coverage_penalty: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    prefix: str | None = None
    return_attention: AttentionDetail | bool = "none"
    omit_score: bool | None = None


class DecodeKeywords(TypedDict, total=False):
    """The fields of ``DecodeOptions`` as keywords of the clients' methods."""

    beam_size: int | None
    num_hypotheses: int | None
    length_penalty: float | None
    coverage_penalty: float | None
    max_tokens: int | None
    min_tokens: int | None
    no_repeat_ngram_size: int | None
    repetition_penalty: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    prefix: str | None
    return_attention: AttentionDetail | bool
    omit_score: bool | None


class RequestKeywords(DecodeKeywords, total=False):
    """What else a request may say.

    Attributes:
        split_sentences: Translate each sentence of a text by itself, and join the answers.
        priority: From -2 to 2, higher is sooner.
    """

    split_sentences: bool
    priority: int


class CaptionKeywords(DecodeKeywords, total=False):
    """What else a request for a caption may say.

    Attributes:
        priority: From -2 to 2, higher is sooner.
    """

    priority: int


_OF_REQUEST = ("split_sentences", "priority")
_OF_SAMPLING = frozenset(decoding_pb2.SamplingOptions.DESCRIPTOR.fields_by_name)


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that a request says beside its text and model: the message of its options, and its own fields."""

    options: decoding_pb2.DecodeOptions
    fields: dict[str, Any]


def asked(options: DecodeOptions | None, keywords: RequestKeywords | CaptionKeywords) -> Asked:
    """Returns what options and keywords ask for.

    Raises:
        InvalidRequest: an option has a value that the wire cannot carry.
        TypeError: there is no such option.
    """
    decode: dict[str, Any] = {name: value for name, value in keywords.items() if name not in _OF_REQUEST}
    of_request = {name: value for name, value in keywords.items() if name in _OF_REQUEST}
    return Asked(options_to_proto(options, cast(DecodeKeywords, decode)), of_request)


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
        target, path = (message.sampling, f"sampling.{name}") if name in _OF_SAMPLING else (message, name)
        try:
            setattr(target, name, value)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{name} cannot be {value!r}: {error}", field=f"options.{path}") from error
    return message


def is_raising(on_error: str) -> bool:
    """Tells whether errors are raised, rather than returned.

    Raises:
        ValueError: it is neither "raise" nor "return".
    """
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')
    return on_error == "raise"
