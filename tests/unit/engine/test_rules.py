# SPDX-License-Identifier: Apache-2.0
"""Penalties and draws on single rows, against the simplest implementation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from attnserve_server.decoding.candidates import UniformGenerator, draw, top
from attnserve_server.decoding.rules import Rules
from attnserve_server.request import DecodeOptions, Sampling

VOCAB_SIZE, END_ID = 500, 3


def scores(seed: int, scale: float = 2.0, size: int = VOCAB_SIZE) -> tuple[np.ndarray, np.ndarray]:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale
    return logits.numpy(), logits.log_softmax(-1).numpy()


def plain(options: DecodeOptions, tokens: list[int], logits: np.ndarray) -> np.ndarray:
    """The rules on the logits, then one softmax."""
    changed = torch.from_numpy(logits).double().clone()
    for token in set(tokens):
        changed[token] *= 1 / options.repetition_penalty if changed[token] > 0 else options.repetition_penalty
    if len(tokens) < options.min_tokens:
        changed[END_ID] = -torch.inf
    size = options.no_repeat_ngram_size
    for token in range(len(changed)) if size else ():
        ngrams = [tuple([*tokens, token][start : start + size]) for start in range(len(tokens) + 2 - size)]
        if len(set(ngrams)) < len(ngrams) and ngrams[-1] in ngrams[:-1]:
            changed[token] = -torch.inf
    return changed.log_softmax(-1).numpy()


@pytest.mark.parametrize("scale", [0.5, 3.0, 12.0])
def test_rules_are_those_of_the_plain_way(scale: float) -> None:
    rng, num_banned = random.Random(scale), 0
    for seed in range(80):
        logits, log_probs = scores(seed, scale)
        likely = top(log_probs, 6).tolist()
        tokens = [rng.choice([*likely, *range(4, 12)]) for _ in range(rng.randint(0, 14))]
        options = DecodeOptions(
            min_tokens=rng.choice([0, 0, 5, 30]),
            no_repeat_ngram_size=rng.choice([0, 1, 2, 3]),
            repetition_penalty=rng.choice([1.0, 1.3, 2.5, 0.7]),
        )
        found = Rules(options, END_ID).adjust(tokens, logits, log_probs)
        expected = plain(options, tokens, logits)
        assert np.array_equal(np.isfinite(found), np.isfinite(expected))
        finite = np.isfinite(expected)
        assert np.abs(found[finite] - expected[finite]).max() < 2e-5 * max(1.0, np.abs(expected[finite]).max())
        num_banned += int((~finite).sum())
    assert num_banned > 50


def test_what_holds_nearly_all_probability_may_be_banned() -> None:
    logits = np.full(VOCAB_SIZE, -4.0, np.float32)
    logits[END_ID], logits[7] = 25.0, 1.0
    log_probs = torch.from_numpy(logits).log_softmax(-1).numpy()
    found = Rules(DecodeOptions(min_tokens=3), END_ID).adjust([], logits, log_probs)
    expected = plain(DecodeOptions(min_tokens=3), [], logits)
    assert found[END_ID] == -np.inf
    finite = np.isfinite(expected)
    assert np.abs(found[finite] - expected[finite]).max() < 1e-4


def test_penalty_that_makes_something_enormously_likely_keeps_the_other_rules() -> None:
    logits = np.array([8.0, 7.0, 3.0, 6.0], np.float32)
    log_probs = torch.from_numpy(logits).log_softmax(-1).numpy()
    options = DecodeOptions(min_tokens=5, repetition_penalty=0.009)
    found, expected = Rules(options, END_ID).adjust([0], logits, log_probs), plain(options, [0], logits)
    assert found[END_ID] == -np.inf
    assert np.abs(found[:3] - expected[:3]).max() < 1e-3


def test_rules_that_leave_nothing_are_lifted() -> None:
    logits, log_probs = scores(1, size=4)
    found = Rules(DecodeOptions(no_repeat_ngram_size=1), END_ID).adjust([0, 1, 2, 3], logits, log_probs)
    assert np.array_equal(found, log_probs)


def test_banned_tokens_change_nothing_else() -> None:
    logits, log_probs = scores(1)
    found = Rules(DecodeOptions(), END_ID, [9]).adjust([4], logits, log_probs)
    assert found[9] == -np.inf
    assert np.array_equal(np.delete(found, 9), np.delete(log_probs, 9))


def test_top_takes_lower_index_first_and_leaves_out_what_is_impossible() -> None:
    row = np.array([0.5, -np.inf, 0.5, 2.0, -1.0], np.float32)
    assert top(row, 3).tolist() == [3, 0, 2]
    assert top(row, 9).tolist() == [3, 0, 2, 4]


def distribution(log_probs: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution of draws, in PyTorch: temperature, then top_k, then top_p."""
    probs = (torch.from_numpy(log_probs).double() / sampling.temperature).softmax(-1)
    ordered, order = probs.sort(descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if sampling.top_k:
        keep[sampling.top_k :] = False
    ordered = ordered * keep / (ordered * keep).sum()
    keep = ordered.cumsum(0) - ordered < sampling.top_p
    ordered = ordered * keep / (ordered * keep).sum()
    return torch.zeros_like(probs).scatter(0, order, ordered).numpy()


SAMPLINGS = [
    Sampling(1),
    Sampling(2, temperature=0.5),
    Sampling(3, temperature=3.0, top_k=100),
    Sampling(4, top_k=1),
    Sampling(5, top_p=0.6),
    Sampling(6, temperature=4.0, top_p=0.95),
    Sampling(7, temperature=1.5, top_k=7, top_p=0.8),
    Sampling(8, top_k=10_000, top_p=0.001),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """The inverse of the distribution function, at evenly spaced points, gives every token its share."""
    _, log_probs = scores(sampling.seed)
    log_probs[17] = -np.inf
    num_points = 200_000
    drawn = draw(log_probs, sampling, (np.arange(num_points) + 0.5) / num_points)
    share = np.bincount(drawn, minlength=VOCAB_SIZE) / num_points
    expected = distribution(log_probs, sampling)
    assert np.array_equal(share > 0, expected > 1.1 / num_points) or np.abs(share - expected).max() < 1e-5
    assert np.abs(share - expected).sum() < 0.004


def test_streams_are_uniform_and_differ() -> None:
    numbers = np.array(
        [
            [stream.next() for _ in range(4000)]
            for stream in (UniformGenerator(5, 0), UniformGenerator(5, 1), UniformGenerator(6, 0))
        ]
    )
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    assert np.abs(np.corrcoef(numbers) - np.eye(3)).max() < 0.06
    for row in numbers:
        assert np.abs(np.sort(row) - np.arange(4000) / 4000).max() < 0.035  # Kolmogorov-Smirnov, far beyond the 0.1 % point
    assert [UniformGenerator(2**64 - 1, 3).next() for _ in range(2)] == [UniformGenerator(2**64 - 1, 3).next()] * 2
