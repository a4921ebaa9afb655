# SPDX-License-Identifier: Apache-2.0
"""A text as sentences through the shell: the submitted requests, the joined answers, and their common end."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2

from attnserve.v1 import decoding_pb2, translation_pb2
from attnserve_server import errors
from attnserve_server.errors import InvalidRequest
from attnserve_server.metrics.timings import Timings
from attnserve_server.request import (
    AttentionDetail,
    AttentionWeights,
    DecodeOptions,
    Done,
    FinishReason,
    Hypothesis,
    SequenceOutcome,
)
from attnserve_server.tasks import joining
from attnserve_server.tasks.joining import Part, check_attention, joined_score
from attnserve_server.tasks.options import MAX_SENTENCES
from attnserve_server.tasks.registry import TRANSLATION
from attnserve_server.tasks.rendering import TextPrepared
from attnserve_server.transport.rpc.v1.translation import translate_response
from tests.fakes.dataplane import END, UNKNOWN, letters_model
from tests.fakes.models import NUM_HEADS, NUM_LAYERS
from tests.unit.server_shell.conftest import Shell, ShellFactory, until
from tests.unit.server_shell.test_rpc import detail, failure, reason

Request, StreamRequest, Options = (
    translation_pb2.TranslateRequest,
    translation_pb2.TranslateStreamRequest,
    decoding_pb2.DecodeOptions,
)
TEXT = " ab?\n\nc\n?de\n"
JOINED = " AB?\n\nC\n?DE"  # the fake keeps the space, which is part of its sentence


def field(error: grpc.aio.AioRpcError) -> str:
    return str(detail(error, error_details_pb2.BadRequest()).field_violations[0].field)


async def split(shell: Shell, text: str = TEXT, **options: Any) -> translation_pb2.TranslateResponse:
    request = Request(text=text, split_sentences=True, options=Options(**options), priority=1)
    response: translation_pb2.TranslateResponse = await shell.translation.Translate(request, timeout=30)
    return response


def check_pieces(text: str, pieces: Any) -> None:
    assert [piece.text for piece in pieces] == [text[piece.begin : piece.end] for piece in pieces]
    assert all(before.end <= after.begin for before, after in itertools.pairwise(pieces))


async def test_sentences_are_requests_of_their_own(shell: Shell) -> None:
    response = await split(shell, prefix="X", sampling=decoding_pb2.SamplingOptions(seed=5), num_hypotheses=2)
    tickets = shell.front.tickets
    assert [ticket.text for ticket in tickets] == [" ab?", "c", "?de"]
    assert len({ticket.terms for ticket in tickets}) == 1
    assert tickets[0].terms.priority == 1
    assert tickets[0].terms.deadline is not None
    assert [ticket.options.prefix for ticket in tickets] == [(ord("X"),), (), ()]
    assert [ticket.options.sampling.seed for ticket in tickets][0] == 5
    assert [hypothesis.text for hypothesis in response.hypotheses] == [JOINED, JOINED]
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "OK")]


async def test_joined_answer(shell: Shell) -> None:
    response = await split(shell)
    hypothesis = response.hypotheses[0]
    assert hypothesis.text == JOINED
    check_pieces(hypothesis.text, hypothesis.pieces)
    check_pieces(TEXT, response.source_pieces)
    ends = [index for index, piece in enumerate(hypothesis.pieces) if not piece.text]
    assert ends == [4, 6, 10] == [index for index, piece in enumerate(response.source_pieces) if not piece.text]
    copied = {index: piece.copied_from for index, piece in enumerate(hypothesis.pieces) if piece.HasField("copied_from")}
    assert copied == {3: 3, 7: 7}
    for index, origin in copied.items():
        assert hypothesis.pieces[index].text == response.source_pieces[origin].text == "?"
    assert hypothesis.finish_reason == decoding_pb2.FINISH_REASON_STOP
    timings = response.timings
    assert timings.queue_seconds >= 0
    assert timings.encode_seconds == 0.25


async def test_joined_attention_is_block_diagonal(shell: Shell) -> None:
    alone = {text: await split(shell, text, return_attention="ATTENTION_DETAIL_ALL") for text in (" ab?", "c", "?de")}
    whole = await split(shell, return_attention="ATTENTION_DETAIL_ALL")
    attentions = whole.hypotheses[0].attention
    assert [(each.layer, each.head) for each in attentions] == [(la, h) for la in range(NUM_LAYERS) for h in range(NUM_HEADS)]
    for index, attention in enumerate(attentions):
        matrix = np.array(attention.weights).reshape(attention.num_target, attention.num_source)
        assert matrix.shape == (len(whole.hypotheses[0].pieces), len(whole.source_pieces)) == (11, 11)
        start = 0
        for answer in alone.values():
            block = answer.hypotheses[0].attention[index]
            end = start + block.num_target
            np.testing.assert_array_equal(matrix[start:end, start:end].ravel(), block.weights)
            matrix[start:end, start:end] = 0
            start = end
        assert not matrix.any()
    (mean,) = (await split(shell, return_attention="ATTENTION_DETAIL_MEAN")).hypotheses[0].attention
    assert (mean.num_target, mean.num_source, mean.HasField("layer")) == (11, 11, False)


@pytest.mark.parametrize("text", ["one", " one ", "one\n", "\n\none"])
async def test_one_sentence_is_the_unsplit_answer(shell: Shell, text: str) -> None:
    answers = [await split(shell, text), await shell.translation.Translate(Request(text=text))]
    for answer in answers:
        answer.ClearField("timings")
    assert answers[0] == answers[1]
    assert [ticket.text for ticket in shell.front.tickets] == [text, text]


async def test_deltas_come_in_the_sentences_order(shell: Shell) -> None:
    request = StreamRequest(text=TEXT, split_sentences=True, options=Options(beam_size=2))
    *deltas, last = [event async for event in shell.translation.TranslateStream(request)]
    result = last.result.hypotheses[0]
    assert result.text == JOINED
    sent = ""
    for event in deltas:
        sent += event.delta.text
        check_pieces(sent, event.delta.pieces)
    assert sent == JOINED
    assert [piece for event in deltas for piece in event.delta.pieces] == list(result.pieces)
    assert all(ticket.terms.is_streamed for ticket in shell.front.tickets)


# --- Limits ---


async def test_too_many_sentences(shell: Shell) -> None:
    assert (await split(shell, "\n".join("x" * MAX_SENTENCES))).hypotheses[0].text == "\n".join("X" * MAX_SENTENCES)
    error = await failure(split(shell, "\n".join("x" * (MAX_SENTENCES + 1))))
    assert (error.code(), field(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "text")
    assert error.details() == "text must have at most 64 sentences; it has 65"
    assert len(shell.front.tickets) == MAX_SENTENCES


async def test_a_sentence_that_is_too_long_is_named(shell: Shell) -> None:
    error = await failure(split(shell, "short\n" + "x" * 101 + "\n" + "y" * 101))
    assert (error.code(), reason(error), field(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "SEQUENCE_TOO_LONG", "text")
    assert error.details() == "sentence 2 of the text has 101 pieces; upper-en-de takes 100"
    assert not shell.front.tickets
    assert shell.recorder.counted[0] == ("rejected", "upper-en-de", "1", "sequence_too_long")


async def test_long_texts_are_split_in_a_thread(shell: Shell) -> None:
    await split(shell, "\n".join(["x" * 90] * 10))
    assert all(name.startswith("tokenizer") for name in shell.front.models()[0].task.threads)


async def test_attention_that_is_too_large(make_shell: ShellFactory) -> None:
    shell = await make_shell()
    text = "\n".join(["x" * 99] * 10)
    assert (await split(shell, text, return_attention="ATTENTION_DETAIL_MEAN")).hypotheses[0].attention
    error = await failure(split(shell, text, return_attention="ATTENTION_DETAIL_ALL"))
    assert (error.code(), field(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "options.return_attention")
    assert "weights" in error.details()
    error = await failure(split(shell, text, beam_size=5, num_hypotheses=5, return_attention="ATTENTION_DETAIL_MEAN"))
    assert field(error) == "options.return_attention"


def test_attention_that_turns_out_too_large() -> None:
    model = letters_model()
    parts = [Part(model.task.encode("x" * 500)), Part(model.task.encode("x" * 500), 500)]
    options = DecodeOptions(attention=AttentionDetail.MEAN)
    check_attention(parts, options, model)
    with pytest.raises(InvalidRequest):
        check_attention(parts, options, model, num_target=3000)
    check_attention(parts, DecodeOptions(), model, num_target=3000)
    check_attention(parts[:1], options, model, num_target=10**6)


# --- Together ---


async def test_one_that_fails_ends_all(shell: Shell) -> None:
    shell.front.hang = True
    shell.front.sentence_errors["c"] = errors.WorkerLost("the worker died")
    error = await asyncio.wait_for(failure(split(shell)), 25)
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    assert all(ticket.cancelled == ["error"] for ticket in shell.front.tickets)
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "UNAVAILABLE")]


@pytest.mark.parametrize("which", [" ab?", "c", "?de"])
async def test_one_that_fails_ends_the_stream(shell: Shell, which: str) -> None:
    """Fails at once, although the first sentence would never end."""
    shell.front.hang = True
    shell.front.sentence_errors[which] = errors.WorkerLost("the worker died")
    call = shell.translation.TranslateStream(StreamRequest(text=TEXT, split_sentences=True))

    async def read() -> None:
        async for _ in call:
            pass

    error = await asyncio.wait_for(failure(read()), 25)
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    assert all("error" in ticket.cancelled for ticket in shell.front.tickets)


async def test_a_full_queue_ends_all(shell: Shell) -> None:
    shell.front.max_tickets = 2
    error = await failure(split(shell))
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert [ticket.cancelled for ticket in shell.front.tickets] == [["error"], ["error"]]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_ends_all(shell: Shell, is_streamed: bool) -> None:
    shell.front.hang = True
    if is_streamed:
        call = shell.translation.TranslateStream(StreamRequest(text=TEXT, split_sentences=True))
        await call.read()
    else:
        call = shell.translation.Translate(Request(text=TEXT, split_sentences=True))
        await asyncio.sleep(0)
    await until(lambda: len(shell.front.tickets) == 3)
    call.cancel()
    await until(lambda: all(ticket.cancelled == ["client"] for ticket in shell.front.tickets))


# --- Scores and times ---


def part(tokens: list[int], score: float, reason: FinishReason = FinishReason.STOP, coverage: float = 0.0) -> Hypothesis:
    weights = AttentionWeights((len(tokens), 2), np.ones((len(tokens), 2), np.float32).tobytes())
    return Hypothesis(tokens, score, reason, weights, coverage=coverage)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_score_of_the_whole(penalty: float) -> None:
    totals, lengths, coverages = [-3.0, -1.25, -0.5], [7, 3, 1], [-0.1, -0.2, 0.0]
    scores = [total / length**penalty + covered for total, length, covered in zip(totals, lengths, coverages, strict=True)]
    parts = [part([5] * length, score, coverage=c) for length, score, c in zip(lengths, scores, coverages, strict=True)]
    assert joined_score(parts, penalty) == pytest.approx(sum(totals) / sum(lengths) ** penalty + sum(coverages))
    assert joined_score(parts[:1], penalty) == scores[0]
    assert math.isfinite(joined_score([part([5] * 128, -1e-300), part([END], 0.0)], 10.0))


def answer(hypotheses: list[list[Hypothesis]], times: list[tuple[float, float]]) -> translation_pb2.TranslateResponse:
    model, now = letters_model(), time.monotonic()
    parts = [Part(model.task.encode("a"), 2 * index, "\n" if index else "") for index in range(len(hypotheses))]
    finished = [
        Done(1, SequenceOutcome(each), now - 9 + begin, 0.25, now - 9 + begin + 0.3, now - 9 + end, 3)
        for each, (begin, end) in zip(hypotheses, times, strict=True)
    ]
    options = DecodeOptions(length_penalty=0.0, num_hypotheses=2, attention=AttentionDetail.MEAN)
    rendered = TRANSLATION.task.render(TextPrepared(model, parts, options), finished)
    return translate_response(model, rendered, Timings.of(now - 10, now - 9.5, joining.whole(finished)))


def test_ranks_lengths_and_times() -> None:
    first = [part([ord("A"), END], -1.0), part([ord("B"), END], -2.0)]
    second = [part([ord("C"), UNKNOWN], -4.0, FinishReason.LENGTH)]
    response = answer([first, second], [(1.0, 3.0), (0.5, 6.0)])
    assert [hypothesis.text for hypothesis in response.hypotheses] == ["A\nC", "B\nC"]
    assert [hypothesis.score for hypothesis in response.hypotheses] == [-5.0, -6.0]
    assert {hypothesis.finish_reason for hypothesis in response.hypotheses} == {decoding_pb2.FINISH_REASON_LENGTH}
    assert {hypothesis.normalization for hypothesis in response.hypotheses} == {decoding_pb2.SCORE_NORMALIZATION_SUM}
    assert response.timings.queue_seconds == pytest.approx(1.0)  # to the first admission
    assert response.timings.encode_seconds == 0.25
    assert response.timings.decode_seconds == pytest.approx(5.25)  # to the last end
    assert 10.0 <= response.timings.total_seconds < 40.0, "and what this test has taken"


def test_joining_one_answer_returns_it() -> None:
    one = Done(3, SequenceOutcome([part([END], -1.0)]), 1.0, 2.0, 3.0, 4.0, 5)
    assert joining.whole([one]) == one
