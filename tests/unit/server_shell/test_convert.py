# SPDX-License-Identifier: Apache-2.0
"""Every value of a request that can be refused, and the field that is named."""

from __future__ import annotations

import math
from typing import Any

import pytest

from attnserve.v1 import decoding_pb2
from attnserve_server.errors import InvalidRequest
from attnserve_server.request import AttentionDetail, DecodeOptions
from attnserve_server.transport.convert import check_text, decode_options
from tests.unit.server_shell.fakes import Model

SAMPLING = decoding_pb2.SamplingOptions


def convert(model: Model | None = None, **options: Any) -> DecodeOptions:
    return decode_options(decoding_pb2.DecodeOptions(**options), model or Model())


def test_defaults_are_the_models() -> None:
    assert convert() == DecodeOptions(max_tokens=Model().max_target_tokens)


def test_everything_that_is_honoured() -> None:
    options = convert(beam_size=5, num_hypotheses=5, length_penalty=0.5, max_tokens=3, return_attention="ATTENTION_DETAIL_ALL")
    assert options == DecodeOptions(5, 5, 0.5, max_tokens=3, attention=AttentionDetail.ALL)


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
        {"max_tokens": Model().max_target_tokens},
        {"return_attention": "ATTENTION_DETAIL_NONE"},
    ],
    ids=str,
)
def test_values_that_change_nothing_are_taken(neutral: dict[str, Any]) -> None:
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
        ({"coverage_penalty": 0.2}, "coverage_penalty"),
        ({"coverage_penalty": math.nan}, "coverage_penalty"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"sampling": SAMPLING()}, "sampling"),
        ({"sampling": SAMPLING(temperature=1.0)}, "sampling"),
        ({"prefix": "Ein"}, "prefix"),
        ({"prefix": " "}, "prefix"),
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


def test_every_option_is_known_here() -> None:
    """A field that is added to the message must be honoured or refused, never ignored."""
    honoured = {"beam_size", "num_hypotheses", "length_penalty", "max_tokens", "return_attention"}
    refused = {"coverage_penalty", "min_tokens", "no_repeat_ngram_size", "repetition_penalty", "sampling", "prefix"}
    assert set(decoding_pb2.DecodeOptions.DESCRIPTOR.fields_by_name) == honoured | refused


@pytest.mark.parametrize("detail", ["ATTENTION_DETAIL_MEAN", "ATTENTION_DETAIL_ALL"])
def test_attention_of_a_model_without_it_is_refused(detail: str) -> None:
    model = Model(gives_attention=False)
    with pytest.raises(InvalidRequest) as raised:
        convert(model, return_attention=detail)
    assert raised.value.field == "options.return_attention"
    assert convert(model, return_attention="ATTENTION_DETAIL_NONE").attention is AttentionDetail.NONE


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0\u2003", "x" * 11, " " * 11])
def test_bad_texts(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_text(text, 10)
    assert raised.value.field == "text"


@pytest.mark.parametrize("text", ["x", "x" * 10, "\0", "a\0b\x1b", "\u200b", "🐶" * 10])
def test_good_texts(text: str) -> None:
    assert check_text(text, 10) == text
