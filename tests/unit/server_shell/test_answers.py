# SPDX-License-Identifier: Apache-2.0
"""From the engine's answers to messages on the wire."""

from __future__ import annotations

import time

import numpy as np
import pytest

from attnserve.v1 import decoding_pb2, model_pb2, translation_pb2
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
from attnserve_server.tasks.joining import Part
from attnserve_server.tasks.registry import TRANSLATION
from attnserve_server.tasks.rendering import Deltas, TextPrepared
from attnserve_server.transport.rpc.v1.model import model_message
from attnserve_server.transport.rpc.v1.translation import translate_delta, translate_response
from tests.fakes.dataplane import END, UNKNOWN, Span, finished, letters_model, weights
from tests.fakes.models import NUM_HEADS, NUM_LAYERS

TOKENS = [ord("a"), ord("b"), END]


def answer(options: DecodeOptions, answered: Done | None = None) -> translation_pb2.TranslateResponse:
    model = letters_model()
    prepared, done = TextPrepared(model, [Part(model.task.encode("ab"))], options), answered or finished(TOKENS, options)
    now = time.monotonic() if answered else done.admitted_at
    rendered = TRANSLATION.task.render(prepared, [done])
    response = translate_response(model, rendered, Timings.of(now - 2.0, now - 1.0, done))
    return translation_pb2.TranslateResponse.FromString(response.SerializeToString())


def test_a_whole_answer() -> None:
    response = answer(DecodeOptions(num_hypotheses=2))
    assert [hypothesis.text for hypothesis in response.hypotheses] == ["AB", "AB"]
    first = response.hypotheses[0]
    assert [(piece.text, piece.begin, piece.end) for piece in first.pieces] == [("A", 0, 1), ("B", 1, 2), ("", 2, 2)]
    assert [(piece.text, piece.begin, piece.end) for piece in response.source_pieces] == [("a", 0, 1), ("b", 1, 2), ("", 2, 2)]
    assert [hypothesis.score for hypothesis in response.hypotheses] == [-0.5, -1.5]
    assert first.normalization == decoding_pb2.SCORE_NORMALIZATION_LENGTH
    assert first.finish_reason == decoding_pb2.FINISH_REASON_STOP
    assert not first.attention
    assert (response.model, response.version) == ("upper-en-de", "1")


def test_timings() -> None:
    timings = answer(DecodeOptions()).timings
    assert timings.queue_seconds == pytest.approx(1.0)
    assert timings.encode_seconds == 0.25
    assert timings.decode_seconds == pytest.approx(0.5)
    assert 2.0 <= timings.total_seconds < 30.0, "and what this test has taken"


def test_a_sum_is_called_one() -> None:
    assert answer(DecodeOptions(length_penalty=0.0)).hypotheses[0].normalization == decoding_pb2.SCORE_NORMALIZATION_SUM


def test_a_score_that_was_left_out_is_called_none() -> None:
    options = DecodeOptions(omit_score=True)
    assert answer(options).hypotheses[0].normalization == decoding_pb2.SCORE_NORMALIZATION_UNSPECIFIED


def test_normalization_names_coverage() -> None:
    for length_penalty in (0.0, 1.0):
        options = DecodeOptions(length_penalty=length_penalty, coverage_penalty=0.2)
        assert answer(options).hypotheses[0].normalization == decoding_pb2.SCORE_NORMALIZATION_COVERAGE


def test_a_copied_piece_says_from_where() -> None:
    copied = Done(1, SequenceOutcome([Hypothesis([ord("A"), UNKNOWN, END], -1.0, FinishReason.STOP, None, {1: 0})]), 0, 0, 0, 0, 1)
    hypothesis = answer(DecodeOptions(), copied).hypotheses[0]
    assert hypothesis.text == "Aa"
    assert [piece.HasField("copied_from") for piece in hypothesis.pieces] == [False, True, False]
    assert (hypothesis.pieces[1].text, hypothesis.pieces[1].copied_from) == ("a", 0)


def test_a_hypothesis_that_was_cut() -> None:
    cut = Done(1, SequenceOutcome([Hypothesis([ord("A")], -1.0, FinishReason.LENGTH)]), 0.0, 0.0, 0.0, 0.0, 1)
    hypothesis = answer(DecodeOptions(max_tokens=1), cut).hypotheses[0]
    assert hypothesis.finish_reason == decoding_pb2.FINISH_REASON_LENGTH
    assert [piece.text for piece in hypothesis.pieces] == ["A"]


def test_mean_attention_is_one_matrix() -> None:
    (attention,) = answer(DecodeOptions(attention=AttentionDetail.MEAN)).hypotheses[0].attention
    assert not attention.HasField("layer")
    assert not attention.HasField("head")
    assert (attention.num_target, attention.num_source) == (3, 3)
    assert list(attention.weights) == [index / 1024 for index in range(9)]


def test_all_attention_is_a_matrix_for_each_layer_and_head() -> None:
    attentions = answer(DecodeOptions(attention=AttentionDetail.ALL)).hypotheses[0].attention
    assert [(a.layer, a.head) for a in attentions] == [(la, h) for la in range(NUM_LAYERS) for h in range(NUM_HEADS)]
    assert all(attention.HasField("layer") and attention.HasField("head") for attention in attentions)
    shape = (3, NUM_LAYERS, NUM_HEADS, 3)
    expected = np.frombuffer(weights(shape).data, np.float32).reshape(shape)
    for attention in attentions:
        matrix = np.array(attention.weights, np.float32).reshape(attention.num_target, attention.num_source)
        np.testing.assert_array_equal(matrix, expected[:, attention.layer, attention.head])


@pytest.mark.parametrize(("num_target", "num_source"), [(1, 1), (4, 8), (30, 31), (128, 129)])
def test_any_size_survives_the_wire(num_target: int, num_source: int) -> None:
    values = np.random.default_rng(0).random((num_target, num_source), np.float32)
    hypothesis = Hypothesis([END], 0.0, FinishReason.STOP, AttentionWeights(values.shape, values.tobytes()))
    response = answer(DecodeOptions(attention=AttentionDetail.MEAN), Done(1, SequenceOutcome([hypothesis]), 0.0, 0.0, 0.0, 0.0, 1))
    np.testing.assert_array_equal(np.array(response.hypotheses[0].attention[0].weights, np.float32), values.ravel())


def test_a_delta() -> None:
    event = translate_delta(Deltas().delta("ab", [Span("ab", 3, 5)]))
    assert event.WhichOneof("event") == "delta"
    assert (event.delta.text, event.delta.pieces[0].begin, event.delta.pieces[0].end) == ("ab", 3, 5)


def test_model_message() -> None:
    message = model_message(letters_model(is_ready=False))
    assert message.state == model_pb2.MODEL_STATE_LOADING
    assert model_message(letters_model()).state == model_pb2.MODEL_STATE_READY
    assert (message.max_source_tokens, message.max_target_tokens, message.max_beam_size) == (100, 64, 5)
    assert (message.id, message.version, message.variant, message.architecture) == ("upper-en-de", "1", "fp32", "letters")
