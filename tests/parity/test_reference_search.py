# SPDX-License-Identifier: Apache-2.0
"""The engine's answers against PyTorch's own beam search (tests/reference), with the very weights of the bundle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from attnserve_export.models.transformer import Transformer
from tests.engines import Engine
from tests.reference.beam_search import beam_search
from tests.reference.from_bundle import transformer_from_bundle

from attnserve_server.request import AttentionDetail, DecodeOptions

MARGIN = 1e-4
MAX_NEAR_TIES = 0.01
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def module(engine: Engine) -> Iterator[Transformer]:
    """The bundle's weights in PyTorch, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield transformer_from_bundle(engine.bundle.folder)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("beam_size", [1, 5])
def test_same_pieces_as_pytorch(engine: Engine, module: Transformer, sentences: list[str], beam_size: int) -> None:
    options = DecodeOptions(beam_size=beam_size, num_hypotheses=beam_size)
    answers = engine.run(sentences, [options] * len(sentences))
    near_ties = 0
    for text, ours in zip(sentences, answers, strict=True):
        source = engine.task.encode(text).tokens
        found = beam_search(module, source, beam_size=beam_size, max_tokens=options.max_tokens, num_hypotheses=beam_size)
        if found.margin <= MARGIN:
            near_ties += 1
            continue
        assert [each.tokens for each in ours] == [each.tokens for each in found.hypotheses], text
        np.testing.assert_allclose([each.score for each in ours], [each.score for each in found.hypotheses], atol=1e-4)
    print(f"beam {beam_size}: {near_ties} of {len(sentences)} sentences have a cut within {MARGIN}")
    assert near_ties <= MAX_NEAR_TIES * len(sentences) if beam_size == 1 else near_ties <= 0.1 * len(sentences)


def test_same_attention_as_pytorch(engine: Engine, module: Transformer, sentences: list[str]) -> None:
    for text in sentences[:10]:
        source = engine.task.encode(text).tokens
        found = beam_search(module, source, beam_size=1, max_tokens=128, with_alignments=True).hypotheses[0]
        theirs = np.asarray(found.alignments)  # (T_tgt, layers, heads, T_src)
        for detail, expected in ((AttentionDetail.ALL, theirs), (AttentionDetail.MEAN, theirs.mean((1, 2)))):
            attention = engine.run([text], [DecodeOptions(attention=detail)])[0][0].attention
            assert attention is not None
            ours = np.frombuffer(attention.data, np.float32).reshape(attention.shape)
            np.testing.assert_allclose(ours, expected, atol=1e-4)
