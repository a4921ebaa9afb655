# SPDX-License-Identifier: Apache-2.0
"""Random decode options, in any combination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from attnserve_server.request import AttentionDetail, DecodeOptions, Sampling
from tests.fakes.runner import END_ID, VOCAB_SIZE

T = TypeVar("T")
MOST_TOKENS = 14
WORDS = [token for token in range(VOCAB_SIZE) if token != END_ID]


class Choose(Protocol):
    """Chooses one of some values: ``random.Random.choice``, or the draw of a strategy."""

    def __call__(self, values: Sequence[T], /) -> T: ...


def any_options(choose: Choose) -> DecodeOptions:
    """Any valid options: each one keeps its default about every other time."""
    num_rows, max_tokens = choose([1, 1, 2, 3, 5, 8]), choose(range(1, MOST_TOKENS + 1))
    sampling = any_sampling(choose) if choose([False, False, True]) else None
    return DecodeOptions(
        beam_size=num_rows if sampling is None else 1,
        num_hypotheses=choose(range(1, num_rows + 1)),
        length_penalty=choose([0.0, 0.6, 1.0, 1.0, 2.0]),
        coverage_penalty=choose([0.0, 0.0, 0.2, 3.0]),
        max_tokens=max_tokens,
        min_tokens=min(max_tokens, choose([0, 0, 1, 4, 9, MOST_TOKENS])),
        no_repeat_ngram_size=choose([0, 0, 1, 2, 3]),
        repetition_penalty=choose([1.0, 1.0, 1.3, 2.5, 0.7]),
        sampling=sampling,
        prefix=tuple(choose(WORDS) for _ in range(min(max_tokens, choose([0, 0, 0, 1, 2, 5])))),
        attention=choose(list(AttentionDetail)),
    )


def any_sampling(choose: Choose) -> Sampling:
    """Any valid sampling options."""
    return Sampling(
        seed=choose([0, 1, 77, 2**64 - 1]) ^ choose(range(1 << 16)),
        temperature=choose([0.3, 1.0, 1.0, 1.7, 6.0]),
        top_k=choose([0, 0, 1, 2, 5, VOCAB_SIZE - 1, VOCAB_SIZE, 1000]),
        top_p=choose([1.0, 1.0, 0.95, 0.6, 0.1]),
    )


def plain_options(choose: Choose) -> DecodeOptions:
    """Options of a search that needs only the most probable tokens."""
    beam_size = choose([1, 1, 2, 3, 5])
    return DecodeOptions(beam_size, beam_size, length_penalty=choose([0.0, 1.0]), max_tokens=choose([1, 5, 20]))
