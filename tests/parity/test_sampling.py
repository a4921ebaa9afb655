# SPDX-License-Identifier: Apache-2.0
"""The draws of the served bundle, over many seeds, against the distribution that PyTorch computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from attnserve_server.decoding import candidates, search
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import DecodeOptions, Sampling, sequence_work
from attnserve_server.tasks.translation import TranslationTask
from tests.driving import SENTENCES, run
from tests.parity.draws import p_value
from tests.reference.beam_search import BEGIN_ID, END_ID, next_log_probs
from tests.reference.rules import Rules
from tests.reference.sampling import distribution

NUM_SEEDS, DRAWS_OF_SEED = 250, 8
LEAST_P = 1e-3
MOST_P_OF_A_FAULT = 1e-9
SETTINGS = {
    "as it is": (Sampling(0), Rules()),
    "cold": (Sampling(0, temperature=0.6), Rules(prefix=(5, 9))),
    "hot": (Sampling(0, temperature=2.0), Rules()),
    "few": (Sampling(0, temperature=2.0, top_k=12), Rules()),
    "nucleus": (Sampling(0, temperature=1.7, top_p=0.9), Rules()),
    "few of a nucleus": (Sampling(0, temperature=1.4, top_k=30, top_p=0.8), Rules(prefix=(4, 9, 4))),
    "penalized": (Sampling(0, temperature=1.5, top_p=0.95), Rules((4, 9, 4), 3.0, 1, 9)),
}


@pytest.fixture(scope="module")
def source(engine: EngineLoop) -> list[int]:
    return TranslationTask(engine.bundle).encode(SENTENCES[1]).tokens


@pytest.fixture(scope="module")
def log_probs(model: Any, source: list[int]) -> Callable[[Rules], Tensor]:
    """PyTorch's log-probabilities of the first token that is drawn."""
    src = torch.tensor([source])

    @functools.cache
    def find(rules: Rules) -> Tensor:
        return next_log_probs(model, model.encode(src), src, [list(rules.prefix)], rules, BEGIN_ID, END_ID)[0]

    return find


def drawn(engine: EngineLoop, source: list[int], setting: str) -> list[int]:
    """The first token of every draw."""
    sampling, rules = SETTINGS[setting]
    options = DecodeOptions(
        num_hypotheses=DRAWS_OF_SEED,
        max_tokens=len(rules.prefix) + 1,
        prefix=rules.prefix,
        repetition_penalty=rules.repetition_penalty,
        no_repeat_ngram_size=rules.no_repeat_ngram_size,
        min_tokens=min(rules.min_tokens, len(rules.prefix) + 1),
    )
    requests = [sequence_work(seed, source, replace(options, sampling=replace(sampling, seed=seed))) for seed in range(NUM_SEEDS)]
    return [one.tokens[-1] for answer in run(engine, requests).values() for one in answer.outcome.hypotheses]


@pytest.mark.parametrize("setting", SETTINGS)
def test_draws_are_of_the_distribution(
    engine: EngineLoop,
    source: list[int],
    log_probs: Callable[[Rules], Tensor],
    setting: str,
    record_property: pytest.RecordProperty,
) -> None:
    sampling, rules = SETTINGS[setting]
    tokens = drawn(engine, source, setting)
    assert len(tokens) == NUM_SEEDS * DRAWS_OF_SEED
    value = p_value(tokens, distribution(log_probs(rules), sampling))
    record_property("p_value", value)
    assert value > LEAST_P


FAULTS: dict[str, tuple[str, Callable[[Sampling], Sampling]]] = {
    "temperature twice": ("hot", lambda sampling: replace(sampling, temperature=sampling.temperature**2)),
    "no temperature": ("cold", lambda sampling: replace(sampling, temperature=1.0)),
    "top_k off by one": ("few", lambda sampling: replace(sampling, top_k=sampling.top_k + 1)),
    "top_p off": ("nucleus", lambda sampling: replace(sampling, top_p=0.95)),
    "one seed for all": ("as it is", lambda sampling: replace(sampling, seed=1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(
    engine: EngineLoop, source: list[int], log_probs: Callable[[Rules], Tensor], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, change = FAULTS[fault]
    sampling, rules = SETTINGS[setting]
    make_stream, draw = search.UniformGenerator, search.draw
    monkeypatch.setattr(search, "draw", lambda row, how, uniforms: draw(row, change(how), uniforms))
    monkeypatch.setattr(
        search, "UniformGenerator", lambda seed, number: make_stream(change(replace(sampling, seed=seed)).seed, number)
    )
    tokens = drawn(engine, source, setting)
    assert p_value(tokens, distribution(log_probs(rules), sampling)) < MOST_P_OF_A_FAULT


def test_a_nucleus_with_one_token_too_many_is_seen(
    engine: EngineLoop, source: list[int], log_probs: Callable[[Rules], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = candidates.nucleus_size
    monkeypatch.setattr(candidates, "nucleus_size", lambda *of: size(*of) + 1)
    sampling, rules = SETTINGS["few of a nucleus"]
    assert p_value(drawn(engine, source, "few of a nucleus"), distribution(log_probs(rules), sampling)) < MOST_P_OF_A_FAULT


def test_streams_of_one_request_are_independent(engine: EngineLoop, source: list[int]) -> None:
    """Two draws of a request are equal as often as two independent draws of the distribution."""
    tokens = drawn(engine, source, "hot")
    pairs = torch.tensor(tokens).view(NUM_SEEDS, DRAWS_OF_SEED)
    same = float((pairs[:, ::2] == pairs[:, 1::2]).double().mean())
    shuffled = float((pairs[:-1, ::2] == pairs[1:, 1::2]).double().mean())
    spread = (same / (NUM_SEEDS * DRAWS_OF_SEED / 2)) ** 0.5
    assert abs(same - shuffled) < 4 * spread * 2**0.5
