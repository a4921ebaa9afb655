# SPDX-License-Identifier: Apache-2.0
"""How a request is decoded and served: ``DecodeOptions`` or keywords, for both clients. The server chooses values that are None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, cast

from attnserve.v1 import decoding_pb2
from attnserve_client.errors import InvalidRequest
from attnserve_client.fields import set_field

AttentionDetail = Literal["none", "mean", "all"]
OnError = Literal["raise", "return"]
ClassMapFormat = Literal["run_lengths", "png", "raw"]

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

    Setting any of ``temperature``, ``top_k``, ``top_p`` and ``seed`` selects random sampling instead of search, with beam size 1;
    ``temperature=1.0`` is the model's own distribution.

    The first sentence of each attribute is also the help text of the command line's option.

    Attributes:
        beam_size: Hypotheses kept at each step; 1 is greedy.
        num_hypotheses: Number of answers, each with rank, score and text. At most ``beam_size``; with sampling, independent draws.
        length_penalty: Exponent of the length that scores are divided by. A score is the sum of the pieces' log-probabilities.
        coverage_penalty: Weight of the coverage penalty, which prefers answers that cover the whole source. By Wu et al. (2016),
            eq. 14; it needs a model with attention.
        max_tokens: Maximum number of pieces of an answer. The prefix is counted, the end symbol is not.
        min_tokens: Minimum number of pieces of an answer. The prefix is counted.
        no_repeat_ngram_size: No sequence of N pieces occurs twice in an answer; 0 allows all.
        repetition_penalty: Above 1: pieces that the answer already contains become less probable. Positive logits are divided by
            this, negative ones multiplied.
        temperature: Below 1 sharpens the distribution, above 1 flattens it. It divides the logits before a piece is drawn.
        top_k: Draw from the N most probable pieces only; 0 for all.
        top_p: Draw from the smallest set of most probable pieces whose total probability reaches this.
        seed: The same seed gives the same answer. None uses a new seed at every call.
        prefix: Text that each answer must begin with.
        return_attention: "none", "mean" (one matrix) or "all" (one for every layer and head); True for "mean".
        omit_score: Return score 0: greedy search is then up to a tenth cheaper.
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
    """Further keywords of a request.

    Attributes:
        split_sentences: Translate each sentence of a text separately, and join the answers.
        priority: From -2 to 2; a higher priority is served sooner.
    """

    split_sentences: bool
    priority: int


class CaptionKeywords(DecodeKeywords, total=False):
    """Further keywords of a caption request.

    Attributes:
        priority: From -2 to 2; a higher priority is served sooner.
    """

    priority: int


class SegmentKeywords(TypedDict, total=False):
    """Keywords of a segmentation request.

    Attributes:
        return_unary: Return the unary map.
        queries: Pixels of the upright image, column and row, whose pairwise maps to return; at most 16.
        format: Form of the class map on the network; the answer's array is the same. "run_lengths" by default; "png" is smaller
            but needs Pillow, "raw" is the largest. The server refuses "raw" for large images.
        priority: From -2 to 2; a higher priority is served sooner.
    """

    return_unary: bool
    queries: Sequence[tuple[int, int]]
    format: ClassMapFormat
    priority: int


class ClassifyKeywords(TypedDict, total=False):
    """Keywords of a classification request.

    Attributes:
        top_k: Number of classes to return; 0 for the server's default of 5.
        return_attention: Return the channel weights and the spatial map of each block.
        priority: From -2 to 2; a higher priority is served sooner.
    """

    top_k: int
    return_attention: bool
    priority: int


class ClassifyVideoKeywords(TypedDict, total=False):
    """Keywords of a video classification request.

    Attributes:
        top_k: Number of classes to return; 0 for the server's default of 5.
        queries: Positions whose attention over all sampled frames to return; at most 16. Each is the index of a sampled frame, and
            the shares of its width and height, from 0 to 1.
        return_pictures: Return a picture of each sampled frame.
        priority: From -2 to 2; a higher priority is served sooner.
    """

    top_k: int
    queries: Sequence[tuple[int, float, float]]
    return_pictures: bool
    priority: int


class GenerateKeywords(TypedDict, total=False):
    """Keywords of a generation request.

    Attributes:
        count: Number of images, from 1 to 64; 1 by default.
        seed: The same seed gives the same images; a new one is drawn if it is not set.
        grid: Return one PNG file with all images in rows, not a file for each.
        attention_at: Pixel of the images, column and row, whose self-attention in each image to return.
        priority: From -2 to 2; a higher priority is served sooner.
    """

    count: int | None
    seed: int | None
    grid: bool
    attention_at: tuple[int, int] | None
    priority: int


_OF_REQUEST = ("split_sentences", "priority")
_OF_SAMPLING = frozenset(decoding_pb2.SamplingOptions.DESCRIPTOR.fields_by_name)


@dataclass(frozen=True, slots=True)
class Asked:
    """All parts of a request except its text and model: the message of its options, and its own fields."""

    options: decoding_pb2.DecodeOptions
    fields: dict[str, Any]


def asked(options: DecodeOptions | None, keywords: RequestKeywords | CaptionKeywords) -> Asked:
    """Returns the combination of options and keywords.

    Raises:
        InvalidRequest: an option has a value that cannot be sent.
        TypeError: there is no such option.
    """
    decode: dict[str, Any] = {name: value for name, value in keywords.items() if name not in _OF_REQUEST}
    of_request = {name: value for name, value in keywords.items() if name in _OF_REQUEST}
    return Asked(options_to_proto(options, cast(DecodeKeywords, decode)), of_request)


def options_to_proto(options: DecodeOptions | None, keywords: DecodeKeywords) -> decoding_pb2.DecodeOptions:
    """Returns the message of ``options``, in which keywords override fields; None stays unset.

    Raises:
        InvalidRequest: an option has a value that cannot be sent.
        TypeError: there is no such option.
    """
    base: Any = options or DecodeOptions()
    if not isinstance(base, DecodeOptions):
        cure = "single options are keywords, such as beam_size=4"
        raise InvalidRequest(f"options must be DecodeOptions, not {type(base).__name__}; {cure}", field="options")
    merged, message = replace(base, **keywords), decoding_pb2.DecodeOptions()
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
        set_field(target, name, value, f"options.{path}")
    return message


def is_raising(on_error: str) -> bool:
    """Tells whether errors are raised rather than returned.

    Raises:
        ValueError: ``on_error`` is neither "raise" nor "return".
    """
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')
    return on_error == "raise"
