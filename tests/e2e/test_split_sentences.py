# SPDX-License-Identifier: Apache-2.0
"""Texts that the server splits into sentences: the joined answer agrees with the answers of the single sentences."""

from __future__ import annotations

import itertools

import grpc
import numpy as np
import pytest

from attnserve.v1 import decoding_pb2
from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve.v1.translation_pb2 import TranslateResponse
from tests.e2e.serving import LONG_TEXT, SENTENCES, STREAM, UNARY, Server, ask, details, eventually, start_stream, streamed, texts

PARTS = ("A boy jumps into the lake.", "Two girls are watching him!", "A dog sleeps 🐕 under a tree.", "Dr. Smith smiles.")
GAPS = (" ", "\n\n", "  \t")
TEXT = " " + "".join(part + gap for part, gap in itertools.zip_longest(PARTS, GAPS, fillvalue="\n"))
GREEDY, BEAM = DecodeOptions(), DecodeOptions(beam_size=4, num_hypotheses=3, length_penalty=0.6)
searches = pytest.mark.parametrize("options", [GREEDY, BEAM], ids=["greedy", "beam"])
both = pytest.mark.parametrize("kind", [UNARY, STREAM])


def split(channel: grpc.Channel, text: str, options: DecodeOptions | None = None, kind: str = UNARY) -> TranslateResponse:
    return ask(channel, text, options, kind=kind, split_sentences=True)


def joined(parts: list[str]) -> str:
    return "".join(part + gap for part, gap in itertools.zip_longest(parts, GAPS, fillvalue=""))


def with_attention(options: DecodeOptions, detail: decoding_pb2.AttentionDetail) -> DecodeOptions:
    wanted = DecodeOptions()
    wanted.CopyFrom(options)
    wanted.return_attention = detail
    return wanted


@both
@searches
def test_answers_are_joined(channel: grpc.Channel, options: DecodeOptions, kind: str) -> None:
    whole, alone = split(channel, TEXT, options, kind), [ask(channel, part, options) for part in PARTS]
    assert texts(whole) == [joined(list(same_rank)) for same_rank in zip(*map(texts, alone), strict=True)]
    for text, pieces in [(TEXT, whole.source_pieces), *((h.text, h.pieces) for h in whole.hypotheses)]:
        assert [piece.text for piece in pieces] == [text[piece.begin : piece.end] for piece in pieces]
        assert all(before.end <= after.begin for before, after in itertools.pairwise(pieces))
    pieces = [piece.text for answer in alone for piece in answer.source_pieces]
    assert [piece.text for piece in whole.source_pieces] == pieces
    for rank, hypothesis in enumerate(whole.hypotheses):
        same_rank = [answer.hypotheses[rank] for answer in alone]
        assert [piece.text for piece in hypothesis.pieces] == [piece.text for each in same_rank for piece in each.pieces]
        penalty = options.length_penalty if options.HasField("length_penalty") else 1.0
        total = sum(each.score * len(each.pieces) ** penalty for each in same_rank)
        assert hypothesis.score == pytest.approx(total / len(hypothesis.pieces) ** penalty, rel=1e-5)
        assert hypothesis.normalization == decoding_pb2.SCORE_NORMALIZATION_LENGTH
        assert hypothesis.finish_reason == decoding_pb2.FINISH_REASON_STOP


@searches
def test_stream(channel: grpc.Channel, options: DecodeOptions) -> None:
    stream = streamed(channel, TEXT, options, split_sentences=True)
    assert len(stream.deltas) >= len(PARTS)
    assert stream.result.hypotheses == split(channel, TEXT, options).hypotheses


@searches
@pytest.mark.parametrize("text", [SENTENCES[0], "  " + SENTENCES[1] + "\n\n", "Dr. Smith smiles.", "a", "🐕"])
def test_one_sentence_is_the_unsplit_answer(channel: grpc.Channel, options: DecodeOptions, text: str) -> None:
    options = with_attention(options, decoding_pb2.ATTENTION_DETAIL_ALL)
    whole, plain = split(channel, text, options), ask(channel, text, options)
    for answer in (whole, plain):
        answer.ClearField("timings")
    assert whole == plain


@both
def test_sentence_in_which_the_tokenizer_finds_nothing_is_passed_through(channel: grpc.Channel, kind: str) -> None:
    first, second = (ask(channel, each).hypotheses[0].text for each in SENTENCES[:2])
    for hidden in ("\u200b", "\u2060", "\ufe0f", "\ufffd", "\u2581"):
        text = f"{SENTENCES[0]}\n\n{hidden}\n\n{SENTENCES[1]}"
        assert texts(split(channel, text, kind=kind)) == [f"{first}\n\n{hidden}\n\n{second}"]
    alone = split(channel, f"\ufffd\n\n{SENTENCES[0]}", kind=kind)
    assert texts(alone) == [f"\ufffd\n\n{first}"]
    assert alone.source_pieces[0].begin == 3
    with pytest.raises(grpc.RpcError) as raised:
        split(channel, "\ufffd\n\n\u2581\n\n\ufffd", kind=kind)
    assert (raised.value.code(), details(raised.value).fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("text",))


@both
def test_text_on_which_the_splitter_panicked_is_answered(channel: grpc.Channel, kind: str) -> None:
    assert split(channel, "A\n\nB\u2028.\n", kind=kind).hypotheses[0].text


@pytest.mark.parametrize("detail", [decoding_pb2.ATTENTION_DETAIL_MEAN, decoding_pb2.ATTENTION_DETAIL_ALL])
def test_attention_stays_within_sentences(channel: grpc.Channel, detail: decoding_pb2.AttentionDetail) -> None:
    options = with_attention(BEAM, detail)
    whole, alone = split(channel, TEXT, options), [ask(channel, part, options) for part in PARTS]
    for rank, hypothesis in enumerate(whole.hypotheses):
        blocks = [answer.hypotheses[rank].attention for answer in alone]
        assert {len(each) for each in blocks} == {len(hypothesis.attention)}
        for index, attention in enumerate(hypothesis.attention):
            matrix = np.array(attention.weights, np.float32).reshape(attention.num_target, attention.num_source)
            assert matrix.shape == (len(hypothesis.pieces), len(whole.source_pieces))
            np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-3)
            row = column = 0
            for block in (each[index] for each in blocks):
                end_row, end_column = row + block.num_target, column + block.num_source
                assert list(matrix[row:end_row, column:end_column].ravel()) == list(block.weights)
                matrix[row:end_row, column:end_column] = 0
                row, column = end_row, end_column
            assert not matrix.any()


@both
def test_limits_hold_for_each_sentence(channel: grpc.Channel, kind: str) -> None:
    text = " ".join(SENTENCES[:12])
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, text, kind=kind)
    assert details(raised.value).reason == "SEQUENCE_TOO_LONG"
    assert texts(split(channel, text, kind=kind)) == [" ".join(ask(channel, each).hypotheses[0].text for each in SENTENCES[:12])]
    with pytest.raises(grpc.RpcError) as raised:
        split(channel, f"{SENTENCES[0]} {SENTENCES[1]} Red {'dog ' * 200}. {SENTENCES[2]}", kind=kind)
    assert (details(raised.value).reason, details(raised.value).fields) == ("SEQUENCE_TOO_LONG", ("text",))
    assert "sentence 3" in raised.value.details()
    cut = split(channel, f"{SENTENCES[0]} {LONG_TEXT}", DecodeOptions(max_tokens=5), kind).hypotheses[0]
    assert cut.finish_reason == decoding_pb2.FINISH_REASON_LENGTH
    assert len(cut.pieces) == 10


@both
def test_too_many_sentences(channel: grpc.Channel, kind: str) -> None:
    assert len(split(channel, "A dog runs. " * 64, kind=kind).hypotheses[0].text.split(". ")) == 64
    with pytest.raises(grpc.RpcError) as raised:
        split(channel, "A dog runs. " * 65, kind=kind)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(raised.value).fields == ("text",)
    assert "64" in raised.value.details()


def test_attention_that_would_be_too_large(channel: grpc.Channel) -> None:
    options = DecodeOptions(return_attention=decoding_pb2.ATTENTION_DETAIL_ALL)
    with pytest.raises(grpc.RpcError) as raised:
        split(channel, "A dog runs through the deep snow. " * 40, options)
    assert details(raised.value).fields == ("options.return_attention",)


def test_timings(channel: grpc.Channel) -> None:
    times = split(channel, TEXT).timings
    assert min(times.queue_seconds, times.encode_seconds, times.decode_seconds) >= 0
    assert times.queue_seconds + times.encode_seconds + times.decode_seconds <= times.total_seconds + 1e-6


@pytest.mark.load
def test_a_client_that_leaves_frees_all_slots(server: Server, channel: grpc.Channel) -> None:
    call = start_stream(channel, " ".join(f"Red {LONG_TEXT}." for _ in range(64)), split_sentences=True)
    next(call)
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") > 4, "many sentences at once")
    call.cancel()
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")


def test_a_deadline_ends_all(server: Server, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, " ".join(f"Red {LONG_TEXT}." for _ in range(32)), timeout=0.03, split_sentences=True)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")
    server.assert_unharmed()
