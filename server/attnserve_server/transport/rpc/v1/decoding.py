# SPDX-License-Identifier: Apache-2.0
"""Converts options and hypotheses, common to all services that generate text, between messages and domain types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve.v1 import decoding_pb2
from attnserve_server.metrics.timings import Timings
from attnserve_server.request import AttentionDetail, FinishReason
from attnserve_server.tasks.answers import Normalization, TextHypothesis
from attnserve_server.tasks.options import AskedOptions, AskedSampling
from attnserve_server.tasks.text import Span
from attnserve_server.transport.rpc.v1.packed import add_floats

Fields = dict[str, Any]
"""Fields of a message, for the constructor of the message that holds it. A message of its own would be copied into that one."""

_ATTENTION = {
    decoding_pb2.ATTENTION_DETAIL_UNSPECIFIED: AttentionDetail.NONE,
    decoding_pb2.ATTENTION_DETAIL_NONE: AttentionDetail.NONE,
    decoding_pb2.ATTENTION_DETAIL_MEAN: AttentionDetail.MEAN,
    decoding_pb2.ATTENTION_DETAIL_ALL: AttentionDetail.ALL,
}

_FINISH_REASON = {
    FinishReason.STOP: decoding_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: decoding_pb2.FINISH_REASON_LENGTH,
}

_NORMALIZATION = {
    Normalization.NONE: decoding_pb2.SCORE_NORMALIZATION_UNSPECIFIED,
    Normalization.SUM: decoding_pb2.SCORE_NORMALIZATION_SUM,
    Normalization.LENGTH: decoding_pb2.SCORE_NORMALIZATION_LENGTH,
    Normalization.COVERAGE: decoding_pb2.SCORE_NORMALIZATION_COVERAGE,
}


def asked_options(options: decoding_pb2.DecodeOptions) -> AskedOptions:
    """Converts options, without validation; absent ones are None."""
    has, detail = options.HasField, options.return_attention
    return AskedOptions(
        beam_size=options.beam_size if has("beam_size") else None,
        num_hypotheses=options.num_hypotheses if has("num_hypotheses") else None,
        length_penalty=options.length_penalty if has("length_penalty") else None,
        coverage_penalty=options.coverage_penalty if has("coverage_penalty") else None,
        max_tokens=options.max_tokens if has("max_tokens") else None,
        min_tokens=options.min_tokens,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        repetition_penalty=options.repetition_penalty if has("repetition_penalty") else None,
        sampling=_asked_sampling(options.sampling) if has("sampling") else None,
        prefix=options.prefix,
        attention=_ATTENTION.get(detail, int(detail)),
        omit_score=options.omit_score,
    )


def _asked_sampling(sampling: decoding_pb2.SamplingOptions) -> AskedSampling:
    return AskedSampling(
        temperature=sampling.temperature if sampling.HasField("temperature") else None,
        top_k=sampling.top_k,
        top_p=sampling.top_p if sampling.HasField("top_p") else None,
        seed=sampling.seed if sampling.HasField("seed") else None,
    )


def timings_fields(timings: Timings) -> Fields:
    """Returns the fields of a ``Timings``."""
    return {
        "queue_seconds": timings.queue_s,
        "encode_seconds": timings.encode_s,
        "decode_seconds": timings.decode_s,
        "total_seconds": timings.total_s,
    }


def hypothesis_fields(hypothesis: TextHypothesis) -> Fields:
    """Returns the fields of a ``Hypothesis``."""
    fields = {
        "text": hypothesis.text,
        "pieces": piece_fields(hypothesis.pieces),
        "score": hypothesis.score,
        "normalization": _NORMALIZATION[hypothesis.normalization],
        "finish_reason": _FINISH_REASON[hypothesis.finish_reason],
    }
    if hypothesis.attention is not None:
        fields["attention"] = list(_attentions(hypothesis.attention))
    return fields


def piece_fields(spans: Iterable[Span]) -> list[Fields]:
    """Returns the fields of the ``Piece`` of each span."""
    return [
        {"text": span.text, "begin": span.begin, "end": span.end}
        if span.copied_from is None
        else {"text": span.text, "begin": span.begin, "end": span.end, "copied_from": span.copied_from}
        for span in spans
    ]


def _attentions(weights: npt.NDArray[np.float32]) -> Iterator[decoding_pb2.Attention]:
    """Yields one matrix, or one per layer and head if the weights have these axes."""
    if weights.ndim == 2:  # (T_tgt, T_src)
        yield _matrix(weights)
        return
    for layer in range(weights.shape[1]):  # (T_tgt, layers, heads, T_src)
        for head in range(weights.shape[2]):
            matrix = _matrix(weights[:, layer, head, :])
            matrix.layer, matrix.head = layer, head
            yield matrix


def _matrix(weights: npt.NDArray[np.float32]) -> decoding_pb2.Attention:
    """Converts one matrix (num_target, num_source)."""
    message = decoding_pb2.Attention(num_target=weights.shape[0], num_source=weights.shape[1])
    add_floats(message, decoding_pb2.Attention.WEIGHTS_FIELD_NUMBER, weights)
    return message
