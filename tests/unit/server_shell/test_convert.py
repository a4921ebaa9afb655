# SPDX-License-Identifier: Apache-2.0
"""Every value of a request that can be refused, and the field that is named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from attnserve.v1 import decoding_pb2
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import InvalidRequest
from attnserve_server.request import AttentionDetail, DecodeOptions, Sampling
from attnserve_server.tasks.options import check_prefix, check_priority, check_text, decode_options, of_sentence, with_prefix
from attnserve_server.transport.rpc.v1.classification import ClassificationServicer
from attnserve_server.transport.rpc.v1.decoding import asked_options
from attnserve_server.transport.rpc.v1.segmentation import SegmentationServicer
from tests.fakes.dataplane import Prefix, letters_model

SAMPLING = decoding_pb2.SamplingOptions


def convert(model: ServedModel | None = None, **options: Any) -> DecodeOptions:
    return decode_options(asked_options(decoding_pb2.DecodeOptions(**options)), model or letters_model())


def test_defaults_are_the_models() -> None:
    assert convert() == DecodeOptions(max_tokens=letters_model().max_target_tokens)


def test_all_valid_options_are_converted() -> None:
    options = convert(
        beam_size=5,
        num_hypotheses=4,
        length_penalty=0.5,
        coverage_penalty=0.25,
        max_tokens=30,
        min_tokens=3,
        no_repeat_ngram_size=2,
        repetition_penalty=1.5,
        return_attention="ATTENTION_DETAIL_ALL",
    )
    assert options == DecodeOptions(5, 4, 0.5, 0.25, 30, 3, 2, 1.5, attention=AttentionDetail.ALL)


def test_a_score_may_be_left_out_of_greedy_search() -> None:
    assert convert(omit_score=True, min_tokens=3).omit_score
    assert not convert(beam_size=2).omit_score


def test_sampling() -> None:
    options = convert(sampling=SAMPLING(temperature=0.5, top_k=2**32 - 1, top_p=0.75, seed=2**64 - 1), num_hypotheses=5)
    assert options.sampling == Sampling(2**64 - 1, 0.5, 2**32 - 1, 0.75)
    assert (options.beam_size, options.num_hypotheses, options.num_rows) == (1, 5, 5)
    assert convert(sampling=SAMPLING(seed=0)).sampling == Sampling(0)


def test_a_seed_is_drawn_where_there_is_none() -> None:
    seeds = {sampling.seed for _ in range(20) if (sampling := convert(sampling=SAMPLING()).sampling) is not None}
    assert len(seeds) == 20
    assert max(seeds) > 2**56


def test_sentences_draw_from_seeds_of_their_own() -> None:
    options = with_prefix(convert(sampling=SAMPLING(seed=7), max_tokens=9), Prefix([4, 5], []), letters_model())
    each = [of_sentence(options, index) for index in range(3)]
    assert each[0] is options
    assert [one.prefix for one in each] == [(4, 5), (), ()]
    assert len({one.sampling.seed for one in each if one.sampling}) == 3
    assert all(one.sampling and one.sampling.seed < 2**64 for one in each)
    assert each[1] == of_sentence(options, 1)
    assert of_sentence(convert(), 1) == convert()


@pytest.mark.parametrize(
    "neutral",
    [
        {"coverage_penalty": 0.0},
        {"min_tokens": 0},
        {"no_repeat_ngram_size": 0},
        {"repetition_penalty": 1.0},
        {"prefix": ""},
        {"length_penalty": 0.0},
        {"length_penalty": 10.0},
        {"coverage_penalty": 10.0},
        {"min_tokens": letters_model().max_target_tokens},
        {"no_repeat_ngram_size": letters_model().max_target_tokens},
        {"repetition_penalty": 100.0},
        {"repetition_penalty": 1e-6},
        {"sampling": SAMPLING(temperature=100.0)},
        {"sampling": SAMPLING(temperature=1e-6)},
        {"sampling": SAMPLING(top_p=1.0)},
        {"sampling": SAMPLING(top_p=1e-30)},
        {"sampling": SAMPLING(), "beam_size": 1},
        {"max_tokens": letters_model().max_target_tokens},
        {"return_attention": "ATTENTION_DETAIL_NONE"},
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_taken(neutral: dict[str, Any]) -> None:
    convert(**neutral)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"beam_size": 6}, "beam_size"),
        ({"beam_size": 2**32 - 1}, "beam_size"),
        ({"num_hypotheses": 0}, "num_hypotheses"),
        ({"num_hypotheses": 2}, "num_hypotheses"),
        ({"beam_size": 3, "num_hypotheses": 4}, "num_hypotheses"),
        ({"length_penalty": -0.1}, "length_penalty"),
        ({"length_penalty": 10.5}, "length_penalty"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"length_penalty": math.inf}, "length_penalty"),
        ({"length_penalty": -math.inf}, "length_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"coverage_penalty": -0.1}, "coverage_penalty"),
        ({"coverage_penalty": 10.5}, "coverage_penalty"),
        ({"coverage_penalty": math.nan}, "coverage_penalty"),
        ({"coverage_penalty": math.inf}, "coverage_penalty"),
        ({"min_tokens": 65}, "min_tokens"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens"),
        ({"no_repeat_ngram_size": 65}, "no_repeat_ngram_size"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty"),
        ({"repetition_penalty": 9.9e-7}, "repetition_penalty"),
        ({"repetition_penalty": 100.5}, "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "repetition_penalty"),
        ({"repetition_penalty": math.inf}, "repetition_penalty"),
        ({"sampling": SAMPLING(), "beam_size": 2}, "sampling"),
        ({"sampling": SAMPLING(), "num_hypotheses": 6}, "num_hypotheses"),
        ({"sampling": SAMPLING(), "num_hypotheses": 0}, "num_hypotheses"),
        ({"sampling": SAMPLING(temperature=0.0)}, "sampling.temperature"),
        ({"sampling": SAMPLING(temperature=-1.0)}, "sampling.temperature"),
        ({"sampling": SAMPLING(temperature=1e-40)}, "sampling.temperature"),
        ({"sampling": SAMPLING(temperature=101.0)}, "sampling.temperature"),
        ({"sampling": SAMPLING(temperature=math.nan)}, "sampling.temperature"),
        ({"sampling": SAMPLING(temperature=math.inf)}, "sampling.temperature"),
        ({"sampling": SAMPLING(top_p=0.0)}, "sampling.top_p"),
        ({"sampling": SAMPLING(top_p=-0.5)}, "sampling.top_p"),
        ({"sampling": SAMPLING(top_p=1.25)}, "sampling.top_p"),
        ({"sampling": SAMPLING(top_p=math.nan)}, "sampling.top_p"),
        ({"omit_score": True, "beam_size": 2}, "omit_score"),
        ({"omit_score": True, "sampling": SAMPLING()}, "omit_score"),
        ({"return_attention": 4}, "return_attention"),
        ({"return_attention": -1}, "return_attention"),
    ],
    ids=str,
)
def test_every_bad_value_is_refused_with_its_field(bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        convert(**bad)
    assert raised.value.field == f"options.{field}"
    assert raised.value.message.startswith(f"options.{field} ")


def test_temperature_0_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match="omit sampling for the most probable piece"):
        convert(sampling=SAMPLING(temperature=0.0))


@pytest.mark.parametrize(
    "option",
    [{"min_tokens": 1}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.5}, {"sampling": SAMPLING()}],
    ids=str,
)
def test_model_that_scores_the_best_pieces_alone(option: dict[str, Any]) -> None:
    model = letters_model(outputs=[["top_log_probs", "top_tokens"]])
    with pytest.raises(InvalidRequest, match="scores of all pieces") as raised:
        convert(model, **option)
    assert raised.value.field == f"options.{next(iter(option))}"
    convert(model, beam_size=3, coverage_penalty=0.5, min_tokens=0, no_repeat_ngram_size=0, repetition_penalty=1.0)
    with pytest.raises(InvalidRequest, match="scores of all pieces"):
        with_prefix(convert(model), Prefix([4], []), model)


def test_prefix() -> None:
    options = convert(max_tokens=3)
    assert with_prefix(options, Prefix([4, 5], []), letters_model()).prefix == (4, 5)
    for prefix, words in [
        (Prefix([4, 5, 6], []), "must have fewer pieces than max_tokens \\(3\\); it has 3"),
        (Prefix([], []), "only white space"),
        (Prefix([4, 1], [3]), "lacks, at 3 \\(counted from 0\\)$"),
        (Prefix([1] * 9, [*range(9)]), "lacks, at 0, 1, 2, 3, 4 \\("),
    ]:
        with pytest.raises(InvalidRequest, match=words) as raised:
            with_prefix(options, prefix, letters_model())
        assert raised.value.field == "options.prefix"


INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\x00\x01\x7f\x85",
    "\u2060",
    "\u00ad",
    "\ufe0f",
    "\U000e0100",
    "\u200e\u2028 \u3164",
    "\u200d\u034f",
]


@pytest.mark.parametrize("prefix", [" ", "\n\t", "\u3000", "x" * 11, *INVISIBLE])
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_prefix(prefix, 10)
    assert raised.value.field == "options.prefix"


@pytest.mark.parametrize("prefix", ["", "x", " x ", "x" * 10, "\u200bx\ufe0f", "\u0301", "\ue000"])
def test_good_prefixes(prefix: str) -> None:
    assert check_prefix(prefix, 10) == prefix


def test_priority() -> None:
    assert [check_priority(each) for each in range(-2, 3)] == [-2, -1, 0, 1, 2]
    for bad in (-3, 3, 2**31 - 1, -(2**31)):
        with pytest.raises(InvalidRequest, match="from -2 to 2") as raised:
            check_priority(bad)
        assert raised.value.field == "priority"


def test_coverage_needs_attention() -> None:
    model = letters_model(gives_attention=False)
    assert convert(model, coverage_penalty=0.0).coverage_penalty == 0
    with pytest.raises(InvalidRequest, match="needs attention") as raised:
        convert(model, coverage_penalty=0.5)
    assert raised.value.field == "options.coverage_penalty"


@pytest.mark.parametrize("detail", ["ATTENTION_DETAIL_MEAN", "ATTENTION_DETAIL_ALL"])
def test_attention_of_a_model_without_it_is_refused(detail: str) -> None:
    model = letters_model(gives_attention=False)
    with pytest.raises(InvalidRequest) as raised:
        convert(model, return_attention=detail)
    assert raised.value.field == "options.return_attention"
    assert convert(model, return_attention="ATTENTION_DETAIL_NONE").attention is AttentionDetail.NONE


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0\u2003", "x" * 11, " " * 11, *INVISIBLE])
def test_bad_texts(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_text(text, 10)
    assert raised.value.field == "text"


@pytest.mark.parametrize("text", ["x", "x" * 10, "\0x", "a\0b\x1b", "\u200b.", "🐶" * 10])
def test_good_texts(text: str) -> None:
    assert check_text(text, 10) == text


class Unread(list[None]):
    """Messages that fail the test when they are read."""

    def __iter__(self) -> Iterator[None]:
        raise AssertionError("was read")


async def test_more_queries_than_allowed_are_refused_before_they_are_converted() -> None:
    plane: Any = SimpleNamespace(submit=None)
    request: Any = SimpleNamespace(queries=Unread([None] * 17), image=b"", format=0, return_unary=False)
    for answer in (ClassificationServicer(plane).classify_video, SegmentationServicer(plane).segment):
        with pytest.raises(InvalidRequest, match="queries must be at most 16; there are 17") as raised:
            await answer(request, plane)
        assert raised.value.field == "queries"
