# SPDX-License-Identifier: Apache-2.0
"""Compares a bundle with its PyTorch module over a grid of shapes, and over whole decoded answers.

The reference is the PyTorch module with the stored weights, run over the whole prefix at every step. ONNX Runtime runs the bundle
in the simplest way that its manifest allows: all state through host memory, one static batch.

The fp32 variant must equal the module up to rounding. A variant of lower precision cannot; its quality is measured through the
server (:func:`attnserve_export.recording.record`). Here only the divergence of its next token's distribution from the module's is
checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.models.interface import TranslationModel
from attnserve_export.parity_runner import Array, PlainRunner
from attnserve_export.parity_sources import Sources
from attnserve_export.training.data import BEGIN_ID, END_ID

TOLERANCE = 1e-4
MAX_NEAR_TIES = 0.01
EXACT = "fp32"
"""Name of the variant that ``TOLERANCE`` applies to."""
MAX_DIVERGENCE = 0.01
"""Nats a token, for a variant of lower precision: its perplexity is at most 1 % higher."""
POSITIONS = (0, 1, 9, 30)


@torch.no_grad()
def reference_logits(model: TranslationModel, memory: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> Array:
    """Returns the module's logits at the last target position, from encoded sources: (B, V)."""
    hidden, _ = model.decode(memory, source, target)
    logits: Array = model.next_logits(hidden[:, -1]).numpy()
    return logits


@torch.no_grad()
def _encoded(model: TranslationModel, source: torch.Tensor, group: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the module's memory of a batch, and the sources, each repeated ``group`` times."""
    return model.encode(source).repeat_interleave(group, 0), source.repeat_interleave(group, 0)


def cpu_variants(manifest: manifest_pb2.Manifest) -> list[manifest_pb2.Variant]:
    """Returns the variants for the CPU, in the manifest's order; the others cannot be checked here."""
    return [variant for variant in manifest.variants if variant.device == manifest_pb2.DEVICE_CPU]


def grid_cases(
    folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: Sources
) -> dict[str, list[manifest_pb2.ParityCase]]:
    """Compares every CPU step graph over the grid, with synthetic sources and random target tokens; returns the cases by variant.

    Graphs with the same number of rows a request get the same inputs, so that the module runs once for all of them.
    """
    rng = np.random.default_rng(0)
    cases: dict[str, list[manifest_pb2.ParityCase]] = {variant.name: [] for variant in cpu_variants(manifest)}
    groups = {max(1, step.max_rows_of_request) for variant in cpu_variants(manifest) for step in variant.steps}
    for group in sorted(groups):
        runners = [
            (variant.name, PlainRunner(folder, manifest, variant, index))
            for variant in cpu_variants(manifest)
            for index, step in enumerate(variant.steps)
            if max(1, step.max_rows_of_request) == group
        ]
        for count, length in sources.grid:
            asked = sources.made_up(rng, count, length)
            found = _grid_case([runner for _, runner in runners], model, rng, (asked, sources.feeds(asked), length))
            for (name, runner), case in zip(runners, found, strict=True):
                case.graph = f"{name}/{runner.step_graph.file}"
                cases[name].append(case)
    return cases


def _grid_case(
    runners: list[PlainRunner], model: TranslationModel, rng: np.random.Generator, asked: tuple[Array, dict[str, Array], int]
) -> list[manifest_pb2.ParityCase]:
    source, feeds, length = asked
    group, vocab = runners[0].group, runners[0].manifest.vocabulary.size
    rows = len(source) * group
    target = np.concatenate([np.full((rows, 1), BEGIN_ID), rng.integers(4, vocab, (rows, max(POSITIONS)))], 1)
    memory, repeated = _encoded(model, torch.from_numpy(source), group)
    theirs = {last: reference_logits(model, memory, repeated, torch.from_numpy(target[:, : last + 1])) for last in POSITIONS}
    cases = []
    for runner in runners:
        runner.start(feeds)
        differences = {}
        for position in range(max(POSITIONS) + 1):
            result = runner.step(target[:, position], position)
            if position in theirs:
                differences[position] = result.difference(theirs[position])
        worst = max(differences, key=lambda position: differences[position])
        difference = float(f"{differences[worst]:.3g}")
        cases.append(manifest_pb2.ParityCase(rows=rows, source_tokens=length, position=worst, max_abs_difference=difference))
    return cases


@dataclass(slots=True)
class Tally:
    """Results over all sentences for one variant."""

    num_identical: int = 0
    num_near_ties: int = 0
    num_tokens: int = 0
    total_divergence: float = 0.0


def compare_answers(
    runners: dict[str, PlainRunner], model: TranslationModel, sources: Sources, max_tokens: int = 60
) -> dict[str, Tally]:
    """Decodes whole answers greedily by the module, and runs each variant on the module's tokens at every step.

    Up to its first different token a variant gets the tokens that it would choose, so this also counts its identical answers.
    """
    tallies = {name: Tally() for name in runners}
    for source in sources.batches():
        trace = list(_trace(model, torch.from_numpy(source), max_tokens))
        for name, runner in runners.items():
            _compare_group(runner, sources.feeds(source), trace, tallies[name])
    return tallies


def _trace(model: TranslationModel, source: torch.Tensor, max_tokens: int) -> Iterator[Array]:
    """Yields the module's logits (B, V) at each position of its greedy decoding."""
    target = torch.full((len(source), 1), BEGIN_ID)
    has_ended = np.zeros(len(source), bool)
    memory, _ = _encoded(model, source)
    for _ in range(max_tokens):
        logits = reference_logits(model, memory, source, target)
        yield logits
        best = logits.argmax(-1)
        has_ended |= best == END_ID
        if has_ended.all():
            return
        target = torch.cat([target, torch.from_numpy(best)[:, None]], 1)


def _compare_group(runner: PlainRunner, feeds: dict[str, Array], trace: list[Array], tally: Tally) -> None:
    runner.start(feeds)
    tokens = np.full(runner.num_rows, BEGIN_ID)
    has_ended, has_parted, is_near = (np.zeros(runner.num_rows, bool) for _ in range(3))
    for position, theirs in enumerate(trace):
        ours, live = runner.step(tokens, position).logits(), ~has_ended
        tally.num_tokens += int(live.sum())
        tally.total_divergence += float(_divergence(theirs[live], ours[live]).sum())
        best, second = np.partition(theirs, -2)[:, -1], np.partition(theirs, -2)[:, -2]
        parts = live & ~has_parted & (ours.argmax(-1) != theirs.argmax(-1))
        has_parted |= parts
        is_near |= parts & (best - second <= TOLERANCE)
        tokens = theirs.argmax(-1)
        has_ended |= tokens == END_ID
    tally.num_identical += int((~has_parted).sum())
    tally.num_near_ties += int(is_near.sum())


def _divergence(logits: Array, others: Array) -> Array:
    """Kullback-Leibler divergence KL(softmax(logits) || softmax(others)) of each row, in nats: (B)."""
    ours, theirs = (torch.from_numpy(each).double().log_softmax(-1) for each in (logits, others))
    result: Array = (ours.exp() * (ours - theirs)).sum(-1).numpy()
    return result


def check_parity(
    folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: Sources
) -> manifest_pb2.ParityReport:
    """Makes the parity report.

    Raises:
        ExportError: a difference beyond the tolerance; sentences that differ without a near-tie, or more than 1 % with one; or a
            variant of lower precision whose divergence is too large.
    """
    variants = {variant.name: variant for variant in cpu_variants(manifest)}
    if EXACT not in variants:
        raise ExportError(f"parity: there is no variant {EXACT} for the CPU")
    cases = grid_cases(folder, manifest, model, sources)
    tallies = compare_answers(
        {name: PlainRunner(folder, manifest, variant, 0) for name, variant in variants.items()}, model, sources
    )
    exact = tallies[EXACT]
    report = manifest_pb2.ParityReport(
        tolerance=TOLERANCE,
        cases=cases[EXACT],
        num_sentences=len(sources),
        num_identical=exact.num_identical,
        num_near_ties=exact.num_near_ties,
        approximate=[_approximate(name, cases[name], tallies[name], len(sources)) for name in variants if name != EXACT],
    )
    problems = find_problems(report)
    if problems:
        raise ExportError("parity: " + "; ".join(problems))
    return report


def _approximate(
    name: str, cases: list[manifest_pb2.ParityCase], tally: Tally, num_sentences: int
) -> manifest_pb2.ApproximateVariant:
    return manifest_pb2.ApproximateVariant(
        variant=name,
        max_abs_difference=max(case.max_abs_difference for case in cases),
        divergence=float(f"{tally.total_divergence / tally.num_tokens:.3g}"),
        max_divergence=MAX_DIVERGENCE,
        identical_share=tally.num_identical / num_sentences,
    )


def find_problems(report: manifest_pb2.ParityReport) -> list[str]:
    """Returns a message for each value of a report that is beyond its tolerance or NaN."""
    problems = []
    worst = max(report.cases, key=lambda case: case.max_abs_difference)
    if not worst.max_abs_difference <= TOLERANCE:
        problems.append(f"{worst.graph} differs by {worst.max_abs_difference:.2g} at {worst.rows} rows, position {worst.position}")
    total, identical, near = report.num_sentences, report.num_identical, report.num_near_ties
    if identical + near != total or near > MAX_NEAR_TIES * total:
        problems.append(f"{total - identical} of {total} sentences differ, {near} of them at a near-tie")
    for variant in report.approximate:
        if not variant.divergence <= MAX_DIVERGENCE:  # true for NaN too
            problems.append(f"{variant.variant} diverges by {variant.divergence:.2g} nats a token")
    return problems
