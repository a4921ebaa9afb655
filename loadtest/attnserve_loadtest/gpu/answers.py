# SPDX-License-Identifier: Apache-2.0
"""Checks of answers: CUDA against the CPU, replayed graphs against runs without graphs, one request alone and in a batch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnserve_loadtest.gpu.context import Context, options_for, sources_of, translate
from attnserve_loadtest.gpu.results import note
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.request import Hypothesis

LEAST_IDENTICAL = {"fp32": 0.98, "fp16": 0.93}
"""Share of sentences whose best hypothesis must be that of the CPU's fp32, by the variant's precision.

In half precision two tokens may tie that do not in fp32. With the logits of 3,021 greedy steps of 200 sentences rounded to fp16
the best token changed in one step, and in 0.26 % of the steps the best two were closer than fp16 resolves: 95 to 98 % of the
sentences are expected to stay the same.
"""
MOST_APART = {"fp32": 1e-3, "fp16": 3e-2}
"""Largest difference of the scores of identical hypotheses."""
BEAM_SIZES = (1, 5)
NUM_MIXED = 80
NUM_ALONE = 40
"""Number of sentences of :func:`invariance`, which translates each of them alone too."""


def parity_default(context: Context, figures: dict[str, Any]) -> None:
    """Parity of the default model, see :func:`parity`."""
    parity(context, figures, is_default=True)


def parity_others(context: Context, figures: dict[str, Any]) -> None:
    """Parity of all other models, see :func:`parity`."""
    parity(context, figures, is_default=False)


def parity(context: Context, figures: dict[str, Any], *, is_default: bool | None = None) -> None:
    """Greedy and beam search of all sentences on CUDA against the fp32 variant on the CPU, for bundles with a CUDA variant.

    Raises:
        AssertionError: the best hypotheses of too few sentences are identical, or their scores are apart.
        Skip: no bundle has a CUDA variant.
    """
    problems = list[str]()
    cases = [(path, variant, beam) for path, variant in context.cuda_variants(is_default=is_default) for beam in BEAM_SIZES]
    for path, variant, beam in context.in_time(cases, figures, lambda case: _name(*case)):
        bundle = load_bundle(path, "cpu", "fp32")
        sources, options = sources_of(bundle, context.sentences), options_for(bundle, beam)
        expected = translate(context.engine(path, "cpu", "fp32"), sources, options)
        found = translate(context.engine(path, "cuda", variant), sources, options)
        name, agreement = _name(path, variant, beam), agreement_of(found, expected)
        figures[name] = agreement
        text = f"beam {beam} identical {agreement['identical']:.3f}, scores apart {agreement['scores_apart']:.1e}"
        note(figures, f"{path.parent.name} {variant}", text)
        if is_apart(agreement, variant):
            problems.append(name)
    assert not context.looks_at_values or not problems, f"not as on the CPU: {', '.join(problems)}"


def agreement_of(found: Sequence[Hypothesis], expected: Sequence[Hypothesis]) -> dict[str, float]:
    """The share of identical token sequences, and the largest difference of their scores (1 if there are none)."""
    same = [a.tokens == b.tokens for a, b in zip(found, expected, strict=True)]
    apart = [abs(a.score - b.score) for a, b, is_same in zip(found, expected, same, strict=True) if is_same]
    most = float(np.max(apart)) if apart else 1.0  # NaN where one is, which max() may pass over
    return {"identical": statistics.mean(same), "scores_apart": most, "sentences": len(same)}


def is_apart(agreement: dict[str, float], variant: str) -> bool:
    """Whether an agreement misses the bars of the variant's precision."""
    return not (
        agreement["identical"] >= LEAST_IDENTICAL[precision_of(variant)]
        and agreement["scores_apart"] <= MOST_APART[precision_of(variant)]
    )


def graphs(context: Context, figures: dict[str, Any]) -> None:
    """Replayed CUDA graphs give the bits of runs without graphs, while buckets alternate and others are encoded between replays.

    Raises:
        AssertionError: an answer differs.
    """
    problems = []
    for path, variant in context.in_time(context.cuda_variants(), figures, lambda case: _name(*case)):
        bundle = load_bundle(path)
        sources = sources_of(bundle, context.sentences[:NUM_MIXED])
        mixed = [options_for(bundle, beam, 40) for beam in (1, 4, 1, 8, 2)]
        replayed, plain = (
            translate(context.engine(path, "cuda", variant, captures=captures), sources, mixed, joining=3)
            for captures in (True, False)
        )
        name = _name(path, variant)
        figures[name] = {"identical": identical_bits(replayed, plain), "sentences": len(sources)}
        note(figures, "a replay gives the bits of a plain run", f"{path.parent.name} {figures[name]['identical']:.3f}")
        if figures[name]["identical"] < 1.0:
            problems.append(name)
    assert not context.looks_at_values or not problems, f"a replay gives another answer than a plain run: {', '.join(problems)}"


def invariance(context: Context, figures: dict[str, Any]) -> None:
    """Whether an answer depends on its batch: each sentence alone, against all at once and against three joining at each step.

    cuBLAS chooses its kernels by the number of rows, so the bits of a score may depend on the bucket. ``bits`` is the share of
    answers that are the same to the last bit; it is reported and has no bar. ``tokens`` is the share of the same tokens and has
    the bar of parity.

    Raises:
        AssertionError: the batch changes the tokens of too many sentences.
    """
    problems = []
    cases = [(path, variant, beam) for path, variant in context.cuda_variants() for beam in (1, 4)]
    for path, variant, beam in context.in_time(cases, figures, lambda case: _name(*case)):
        bundle, engine = load_bundle(path), context.engine(path, "cuda", variant)
        sources, options = sources_of(bundle, context.sentences[:NUM_ALONE]), options_for(bundle, beam, 40)
        alone = [translate(engine, [source], options)[0] for source in sources]
        batches = {"full batch": translate(engine, sources, options), "joining": translate(engine, sources, options, joining=3)}
        name = _name(path, variant, beam)
        figures[name] = {
            kind: {"bits": identical_bits(found, alone), "tokens": agreement_of(found, alone)["identical"]}
            for kind, found in batches.items()
        }
        least = min(each["bits"] for each in figures[name].values())
        note(figures, "same bits alone and in a batch", f"{path.parent.name} beam {beam} {least:.3f}")
        if min(each["tokens"] for each in figures[name].values()) < LEAST_IDENTICAL[precision_of(variant)]:
            problems.append(name)
    assert not context.looks_at_values or not problems, f"the batch changes the answer: {', '.join(problems)}"


def identical_bits(found: Sequence[Hypothesis], expected: Sequence[Hypothesis]) -> float:
    """The share of hypotheses with the same tokens and the same bits of the score."""
    return statistics.mean((a.tokens, a.score) == (b.tokens, b.score) for a, b in zip(found, expected, strict=True))


def precision_of(variant: str) -> str:
    """Which of "fp32" and "fp16", by the variant's name."""
    return "fp32" if "32" in variant else "fp16"


def _name(path: Path, variant: str, beam: int = 0) -> str:
    return f"{path.parent.name} {variant}" + (f" beam {beam}" if beam else "")
