# SPDX-License-Identifier: Apache-2.0
"""Every decode option through a real server has its documented effect: alone and in a batch, unary and streamed."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter

import grpc
import numpy as np
import pytest

from attnserve.v1 import decoding_pb2
from attnserve.v1.decoding_pb2 import DecodeOptions, Hypothesis, SamplingOptions
from tests.e2e.serving import LONG_TEXT, SENTENCES, STREAM, UNARY, Server, ask, details, start_unary, streamed, texts

TEXT = SENTENCES[0]
MEAN = decoding_pb2.ATTENTION_DETAIL_MEAN
both = pytest.mark.parametrize("kind", [UNARY, STREAM])
searches = pytest.mark.parametrize("beam_size", [1, 4])


def sampled(seed: int | None = 7, *, num_hypotheses: int = 1, temperature: float = 1.0, **options: float) -> DecodeOptions:
    sampling = SamplingOptions(temperature=temperature, seed=seed)
    for name in ("top_k", "top_p"):
        if name in options:
            setattr(sampling, name, options.pop(name))
    return DecodeOptions(sampling=sampling, num_hypotheses=num_hypotheses, **options)


def num_pieces(hypothesis: Hypothesis) -> int:
    """Number of pieces, without the end symbol."""
    return len(hypothesis.pieces) - (hypothesis.finish_reason == decoding_pb2.FINISH_REASON_STOP)


def ngrams(hypothesis: Hypothesis, size: int) -> Counter[tuple[tuple[str, bool], ...]]:
    """How often each n-gram of pieces occurs; a piece is its text and whether it brought the space before it.

    Those without a text of their own (of a space alone, copied, the end symbol) are left out.
    """
    pieces, is_after_space = [], False
    for piece in hypothesis.pieces:
        text = "" if piece.HasField("copied_from") else piece.text
        begins_word = piece.begin == 0 or hypothesis.text[piece.begin - 1].isspace()
        pieces.append((text, begins_word and not is_after_space))
        is_after_space = not text and begins_word
    windows = zip(*(pieces[start:] for start in range(size)), strict=False)
    return Counter(window for window in windows if all(text for text, _ in window))


# --- Ranges ---

REFUSED: list[tuple[str, DecodeOptions]] = [
    ("coverage_penalty", DecodeOptions(coverage_penalty=10.5)),
    ("min_tokens", DecodeOptions(min_tokens=129)),
    ("no_repeat_ngram_size", DecodeOptions(no_repeat_ngram_size=129)),
    ("repetition_penalty", DecodeOptions(repetition_penalty=math.nan)),
    ("sampling.temperature", DecodeOptions(sampling=SamplingOptions(temperature=0))),
    ("sampling.top_p", DecodeOptions(sampling=SamplingOptions(top_p=1.01))),
    ("sampling", DecodeOptions(sampling=SamplingOptions(), beam_size=2)),
    ("num_hypotheses", DecodeOptions(sampling=SamplingOptions(), num_hypotheses=9)),
    ("prefix", DecodeOptions(prefix="Ein 🎸")),
]
"""One for each field, through the wire; all values that are refused are in ``tests/unit/server_shell/test_convert.py``."""


@both
@pytest.mark.parametrize(("name", "options"), REFUSED, ids=[name for name, _ in REFUSED])
def test_refused_outside_its_range(channel: grpc.Channel, name: str, options: DecodeOptions, kind: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, TEXT, options, kind=kind)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(raised.value).fields == (f"options.{name}",)
    assert raised.value.details().startswith(f"options.{name} ")


# --- Sampling ---


def test_a_seed_gives_the_same_answer_whatever_else_is_asked(server: Server, channel: grpc.Channel) -> None:
    wanted = [sampled(seed, num_hypotheses=count, temperature=1.2) for seed, count in ((0, 1), (7, 3), (2**64 - 1, 8))]
    alone = [ask(channel, TEXT, options) for options in wanted]
    others = [DecodeOptions(), DecodeOptions(beam_size=5), sampled(None, num_hypotheses=2), sampled(8, temperature=2.0)]
    futures = [start_unary(channel, SENTENCES[index % 30], others[index % 4]) for index in range(20)]
    among = [start_unary(channel, TEXT, options) for options in wanted]
    futures += [start_unary(channel, SENTENCES[index % 30], others[index % 4]) for index in range(20)]
    again = [start_unary(channel, TEXT, options) for options in wanted]
    for expected, first, second in zip(alone, among, again, strict=True):
        assert first.result().hypotheses == expected.hypotheses
        assert second.result().hypotheses == expected.hypotheses
    assert all(future.result().hypotheses for future in futures)
    server.assert_unharmed()


def test_seeds_and_calls_without_one_differ(channel: grpc.Channel) -> None:
    assert len({ask(channel, TEXT, sampled(seed, temperature=1.5)).hypotheses[0].text for seed in range(8)}) > 4
    assert len({ask(channel, TEXT, sampled(None, temperature=1.5)).hypotheses[0].text for _ in range(8)}) > 4


def test_draws_of_one_request_differ(channel: grpc.Channel) -> None:
    answer = ask(channel, TEXT, sampled(3, num_hypotheses=8, temperature=1.5))
    assert len(answer.hypotheses) == 8
    assert len(set(texts(answer))) > 4
    scores = [hypothesis.score for hypothesis in answer.hypotheses]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "options",
    [sampled(1, top_k=1, temperature=5.0), sampled(2, top_p=1e-6), sampled(3, temperature=1e-4), sampled(4, temperature=1e-6)],
    ids=["top_k", "top_p", "temperature", "least-temperature"],
)
def test_the_narrowest_draw_is_greedy_search(channel: grpc.Channel, options: DecodeOptions) -> None:
    for text in SENTENCES[:5]:
        assert texts(ask(channel, text, options)) == texts(ask(channel, text))


def test_a_top_k_above_the_vocabulary_is_all(channel: grpc.Channel) -> None:
    expected = ask(channel, TEXT, sampled(5, temperature=1.5))
    assert ask(channel, TEXT, sampled(5, temperature=1.5, top_k=2**32 - 1)).hypotheses == expected.hypotheses


# --- Prefix ---


@searches
@pytest.mark.parametrize("prefix", ["Eine Frau", "Zwei", "Im Schnee", "  Die  "])
def test_the_prefix_begins_the_answer(channel: grpc.Channel, beam_size: int, prefix: str) -> None:
    options = DecodeOptions(beam_size=beam_size, num_hypotheses=beam_size, prefix=prefix)
    for text in SENTENCES[:4]:
        answer, free = ask(channel, text, options), ask(channel, text, DecodeOptions(beam_size=beam_size))
        for hypothesis in answer.hypotheses:
            assert hypothesis.text.startswith(prefix.strip())
            assert hypothesis.score < 0
        assert len(texts(answer)[0]) > len(prefix.strip())
        assert free.hypotheses[0].text.startswith(prefix.strip()) or texts(answer)[0] != texts(free)[0]
        assert streamed(channel, text, options).result.hypotheses == answer.hypotheses


def test_a_prefix_that_is_the_models_own_changes_nothing(channel: grpc.Channel) -> None:
    for text in SENTENCES[:6]:
        free = ask(channel, text).hypotheses[0]
        first_word = free.text.split()[0]
        forced = ask(channel, text, DecodeOptions(prefix=first_word)).hypotheses[0]
        assert (forced.text, list(forced.pieces)) == (free.text, list(free.pieces))
        assert forced.score == pytest.approx(free.score, rel=1e-5)


def test_the_prefix_counts_in_all_limits(channel: grpc.Channel) -> None:
    prefix = ask(channel, TEXT, DecodeOptions(max_tokens=4)).hypotheses[0].text
    for max_tokens in (6, 8):
        cut = ask(channel, TEXT, DecodeOptions(prefix=prefix, max_tokens=max_tokens)).hypotheses[0]
        assert num_pieces(cut) <= max_tokens
    attention = ask(channel, TEXT, DecodeOptions(prefix=prefix, return_attention=MEAN)).hypotheses[0]
    assert attention.attention[0].num_target == len(attention.pieces)


def test_the_prefix_begins_the_first_sentence(channel: grpc.Channel) -> None:
    text = f"{SENTENCES[0]} {SENTENCES[1]}"
    answer = ask(channel, text, DecodeOptions(prefix="Eine Frau"), split_sentences=True).hypotheses[0].text
    first = ask(channel, SENTENCES[0], DecodeOptions(prefix="Eine Frau")).hypotheses[0].text
    assert answer == f"{first} {ask(channel, SENTENCES[1]).hypotheses[0].text}"


# --- Lengths and penalties ---


@searches
def test_min_tokens(channel: grpc.Channel, beam_size: int) -> None:
    for text in SENTENCES[:4]:
        free = ask(channel, text, DecodeOptions(beam_size=beam_size)).hypotheses[0]
        longer = num_pieces(free) + 6
        answer = ask(channel, text, DecodeOptions(beam_size=beam_size, num_hypotheses=beam_size, min_tokens=longer))
        assert all(num_pieces(hypothesis) >= longer for hypothesis in answer.hypotheses)
        if beam_size == 1:
            same = ask(channel, text, DecodeOptions(min_tokens=num_pieces(free))).hypotheses[0]
            assert same.text == free.text
    exact = ask(channel, TEXT, DecodeOptions(beam_size=beam_size, min_tokens=40, max_tokens=40)).hypotheses[0]
    assert (num_pieces(exact), exact.finish_reason) == (40, decoding_pb2.FINISH_REASON_LENGTH)


@searches
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_twice(channel: grpc.Channel, beam_size: int, size: int) -> None:
    free = ask(channel, LONG_TEXT, DecodeOptions(beam_size=beam_size)).hypotheses[0]
    assert max(ngrams(free, size).values()) > 1, "the text makes the model repeat itself"
    options = DecodeOptions(beam_size=beam_size, num_hypotheses=beam_size, no_repeat_ngram_size=size)
    for text in (LONG_TEXT, *SENTENCES[:3]):
        for hypothesis in ask(channel, text, options).hypotheses:
            assert max(ngrams(hypothesis, size).values(), default=1) == 1


@searches
def test_repetition_penalty(channel: grpc.Channel, beam_size: int) -> None:
    def variety(penalty: float) -> float:
        pieces = ngrams(ask(channel, LONG_TEXT, DecodeOptions(beam_size=beam_size, repetition_penalty=penalty)).hypotheses[0], 1)
        return len(pieces) / sum(pieces.values())

    assert variety(2.0) > variety(1.0)
    assert texts(ask(channel, LONG_TEXT, DecodeOptions(repetition_penalty=0.5))) != texts(ask(channel, LONG_TEXT))
    for extreme in (1e-5, 100.0):
        assert math.isfinite(ask(channel, TEXT, DecodeOptions(beam_size=beam_size, repetition_penalty=extreme)).hypotheses[0].score)


def covered(answer: Hypothesis) -> float:
    """Wu et al. 2016, equation 14, from the attention that was returned."""
    (attention,) = answer.attention
    matrix = np.array(attention.weights, np.float64).reshape(attention.num_target, attention.num_source)
    return float(np.log(np.minimum(matrix.sum(axis=0), 1.0)).sum())


def test_coverage_penalty(channel: grpc.Channel) -> None:
    for text in SENTENCES[:5]:
        plain = ask(channel, text, DecodeOptions(return_attention=MEAN)).hypotheses[0]
        scored = ask(channel, text, DecodeOptions(return_attention=MEAN, coverage_penalty=0.4)).hypotheses[0]
        assert scored.text == plain.text  # greedy search has but one
        assert scored.normalization == decoding_pb2.SCORE_NORMALIZATION_COVERAGE
        assert scored.score == pytest.approx(plain.score + 0.4 * covered(plain), rel=1e-3, abs=1e-3)
        assert ask(channel, text, DecodeOptions(coverage_penalty=0.4)).hypotheses[0].score == pytest.approx(scored.score)
        ranked = ask(channel, text, DecodeOptions(beam_size=5, num_hypotheses=5, coverage_penalty=0.4))
        scores = [hypothesis.score for hypothesis in ranked.hypotheses]
        assert scores == sorted(scores, reverse=True)


def test_coverage_of_a_split_text_is_the_sum_of_its_sentences(channel: grpc.Channel) -> None:
    parts, text = SENTENCES[:3], " ".join(SENTENCES[:3])
    options = [DecodeOptions(), DecodeOptions(coverage_penalty=0.4)]
    plain, scored = (ask(channel, text, each, split_sentences=True).hypotheses[0].score for each in options)
    of_parts = [[ask(channel, part, each).hypotheses[0].score for each in options] for part in parts]
    assert scored == pytest.approx(plain + sum(with_it - without for without, with_it in of_parts), rel=1e-4)


# --- Streams ---


def test_the_first_piece_of_a_stream_waits_for_no_other(channel: grpc.Channel) -> None:
    sizes = [len(streamed(channel, text).deltas[0].pieces) for text in SENTENCES[:20]]
    assert statistics.median(sizes) <= 2


ALL_AT_ONCE = {
    "length_penalty": 0.7,
    "coverage_penalty": 0.2,
    "max_tokens": 40,
    "min_tokens": 12,
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.3,
    "prefix": "Eine",
    "return_attention": MEAN,
}


@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(**ALL_AT_ONCE),
        DecodeOptions(beam_size=5, num_hypotheses=5, **ALL_AT_ONCE),
        DecodeOptions(num_hypotheses=4, sampling=SamplingOptions(temperature=1.3, top_k=50, top_p=0.95, seed=1), **ALL_AT_ONCE),
    ],
    ids=["greedy", "beam", "sampling"],
)
def test_all_options_at_once(server: Server, channel: grpc.Channel, options: DecodeOptions) -> None:
    for text in (*SENTENCES[:4], LONG_TEXT):
        answer = ask(channel, text, options)
        assert streamed(channel, text, options).result.hypotheses == answer.hypotheses
        for hypothesis in answer.hypotheses:
            assert hypothesis.text.startswith("Eine")
            assert 12 <= num_pieces(hypothesis) <= 40
            assert max(ngrams(hypothesis, 2).values()) == 1
            assert hypothesis.normalization == decoding_pb2.SCORE_NORMALIZATION_COVERAGE
            assert len(hypothesis.attention) == 1
    server.assert_unharmed()


# --- Unknown symbols ---


def test_unknown_symbols_are_the_sources_characters(channel: grpc.Channel) -> None:
    """Some of many draws at a high temperature have the unknown symbol; its surface form is in none of the texts."""
    text = "A 🎸 man 中文 plays 🎻 on the Ελλάς street."
    asked = [start_unary(channel, text, sampled(seed, num_hypotheses=8, temperature=100.0), timeout=110) for seed in range(24)]
    num_copied = 0
    for answer in (future.result() for future in asked):
        for hypothesis in answer.hypotheses:
            assert "⁇" not in hypothesis.text
            assert "<unk>" not in hypothesis.text
            for piece in hypothesis.pieces:
                assert hypothesis.text[piece.begin : piece.end] == piece.text
                if piece.HasField("copied_from"):
                    assert piece.text == answer.source_pieces[piece.copied_from].text
                    num_copied += 1
    assert num_copied, "of 24000 pieces, drawn from 8000 almost alike"
    assert all(before.end <= after.begin for before, after in itertools.pairwise(asked[0].result().hypotheses[0].pieces))
