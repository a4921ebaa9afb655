# SPDX-License-Identifier: Apache-2.0
"""Golden answers: inputs with what the PyTorch module answers, which a worker compares before it serves the model.

An input is taken only where the answer is stable: the search gives the same tokens when noise is added to the logits, and every
variant that runs on the CPU gives these tokens a score well within its tolerance. So a server that answers otherwise is wrong,
whatever its processor and the variant.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from google.protobuf import json_format
from torch import Tensor

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.models.interface import TranslationModel
from attnserve_export.parity import EXACT, cpu_variants
from attnserve_export.parity_runner import Array, PlainRunner
from attnserve_export.parity_sources import Sources
from attnserve_export.training.data import BEGIN_ID, END_ID, UNKNOWN_ID

GOLDEN_FILE = "golden.json"
NUM_INPUTS = 4
MAX_TOKENS = 24
"""Of an answer, the end symbol counted: a longer one is not taken, as each step delays a server's start."""
EXACT_TOLERANCE, LEAST_TOLERANCE, MOST_TOLERANCE = 1e-3, 5e-3, 0.05
"""Of a score, a mean log-probability. The first is that of fp32. That of other variants is twice the largest difference found, from
the second to the third; it is the third where a variant does not run on the CPU."""
NOISE, NUM_SHAKES = MOST_TOLERANCE, 3
"""Standard deviation of what is added to each logit, and how many searches that has to leave as they are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The best hypothesis of a search: its tokens, and their mean log-probability."""

    tokens: list[int]
    score: float


@torch.no_grad()
def search(model: TranslationModel, source: Array, beam_size: int, max_tokens: int, noise: torch.Generator | None = None) -> Answer:
    """Beam search as the server defines it with its default options, the whole prefix run again at each step.

    Of the 2K best candidates, those that end within the first K are finished, and the first K others live on; it stops when K are
    finished. The score is the sum of log-probabilities over the length.

    Args:
        model: in evaluation mode.
        source: one, as the module's encoder takes it: (1, ...).
        beam_size: K.
        max_tokens: a hypothesis of so many is finished.
        noise: of what is added to the logits, :data:`NOISE` wide; None for nothing.
    """
    src = torch.from_numpy(source)
    memory = model.encode(src)
    live, sums = torch.full((1, 1), BEGIN_ID), torch.zeros(1, dtype=torch.float64)
    finished: list[Answer] = []
    for length in range(1, max_tokens + 1):
        rows = len(live)
        hidden, _ = model.decode(memory.expand(rows, *memory.shape[1:]), src.expand(rows, *src.shape[1:]), live)
        totals = sums[:, None] + _log_probs(model.next_logits(hidden[:, -1]), noise)
        best, places = totals.flatten().topk(2 * beam_size)
        vocab = totals.shape[1]
        kept: list[int] = []
        for rank, place in enumerate(places.tolist()):
            if place % vocab == END_ID:
                if rank < beam_size:
                    finished.append(_answer(live[place // vocab], END_ID, float(best[rank])))
            elif len(kept) < beam_size:
                kept.append(rank)
                if length == max_tokens:
                    finished.append(_answer(live[place // vocab], place % vocab, float(best[rank])))
        if len(finished) >= beam_size:
            break
        parents, tokens = places[kept] // vocab, places[kept] % vocab
        live, sums = torch.cat([live[parents], tokens[:, None]], 1), best[kept]
    return max(finished, key=lambda answer: answer.score)


def _log_probs(logits: Tensor, noise: torch.Generator | None) -> Tensor:
    """(rows, V), the noise added first."""
    if noise is not None:
        logits = logits + NOISE * torch.randn(logits.shape, generator=noise)
    return logits.double().log_softmax(-1)


def _answer(prefix: Tensor, token: int, total: float) -> Answer:
    tokens = [*prefix[1:].tolist(), token]
    return Answer(tokens, total / len(tokens))


def beam_sizes(manifest: manifest_pb2.Manifest) -> list[int]:
    """The beam sizes that every step graph of every variant is run for by one of them."""
    most = manifest.limits.max_beam_size
    return sorted({min(step.max_rows_of_request or most, most) for variant in manifest.variants for step in variant.steps} | {1})


class Stability:
    """Tells whether an answer is the same under noise, and how far the variants that run on the CPU are from its score.

    Args:
        folder: the bundle's.
        manifest: its.
        model: the module with the stored weights.
        sources: turn a source into the encode graph's inputs.
    """

    def __init__(self, folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: Sources) -> None:
        self._manifest, self._model, self._sources = manifest, model, sources
        self._runners = {variant.name: PlainRunner(folder, manifest, variant, 0) for variant in cpu_variants(manifest)}
        self._differences = dict.fromkeys(self._runners, 0.0)

    def holds(self, source: Array, beam_size: int, answer: Answer) -> bool:
        """Whether an answer is one to compare with; one that did not end, or has an unknown symbol, is not."""
        if answer.tokens[-1] != END_ID or UNKNOWN_ID in answer.tokens:
            return False
        noise = torch.Generator().manual_seed(beam_size)
        shaken = (search(self._model, source, beam_size, MAX_TOKENS, noise) for _ in range(NUM_SHAKES))
        return all(each.tokens == answer.tokens for each in shaken)

    def agree(self, source: Array, answers: Sequence[Answer]) -> bool:
        """Whether all variants give the answers' tokens scores within half of a tolerance; notes the differences then."""
        found = {name: max(self._difference(runner, source, each) for each in answers) for name, runner in self._runners.items()}
        if any(found[name] > (EXACT_TOLERANCE if name == EXACT else MOST_TOLERANCE) / 2 for name in found):
            return False
        self._differences = {name: max(found[name], before) for name, before in self._differences.items()}
        return True

    def tolerances(self) -> list[manifest_pb2.GoldenTolerance]:
        """Of each variant."""
        found = {each.name: MOST_TOLERANCE for each in self._manifest.variants}
        found |= {name: max(LEAST_TOLERANCE, float(f"{2 * most:.1e}")) for name, most in self._differences.items()}
        found |= {EXACT: EXACT_TOLERANCE} if EXACT in found else {}
        return [manifest_pb2.GoldenTolerance(variant=name, score=score) for name, score in found.items()]

    def _difference(self, runner: PlainRunner, source: Array, answer: Answer) -> float:
        """Of the score that a variant gives the answer's tokens."""
        runner.start(self._sources.feeds(source))
        total, last = 0.0, BEGIN_ID
        for position, token in enumerate(answer.tokens):
            logits = runner.step(np.array([last]), position).logits()
            total += float(_log_probs(torch.from_numpy(logits), None)[0, token])
            last = token
        return abs(total / len(answer.tokens) - answer.score)


def golden_answers(
    folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: Sources
) -> manifest_pb2.GoldenAnswers:
    """The first inputs of the sources whose answers are stable, for every beam size, and all different.

    Raises:
        ExportError: there are too few.
    """
    stability, found, seen = Stability(folder, manifest, model, sources), manifest_pb2.GoldenAnswers(), set[tuple[int, ...]]()
    for source in _one_by_one(sources.batches()):
        answers = {size: search(model, source, size, MAX_TOKENS) for size in beam_sizes(manifest)}
        tokens = tuple(answers[1].tokens)
        if (
            tokens not in seen
            and all(stability.holds(source, size, answer) for size, answer in answers.items())
            and stability.agree(source, list(answers.values()))
        ):
            seen.add(tokens)
            found.inputs.append(_input(manifest, source, answers))
        if len(found.inputs) == NUM_INPUTS:
            found.tolerances.extend(stability.tolerances())
            return found
    raise ExportError(f"golden answers: {len(found.inputs)} of {len(sources)} inputs have stable answers, {NUM_INPUTS} are needed")


def _one_by_one(batches: Iterable[Array]) -> Iterable[Array]:
    """Sources of batches, each (1, ...), texts without their padding."""
    for batch in batches:
        for source in batch:
            yield (source[source != 0] if source.ndim == 1 else source)[None]


def _input(manifest: manifest_pb2.Manifest, source: Array, answers: dict[int, Answer]) -> manifest_pb2.GoldenInput:
    given = {"image": zlib.compress(source.tobytes(), 9)} if manifest.HasField("image") else {"tokens": source[0].tolist()}
    return manifest_pb2.GoldenInput(
        **given,
        answers=[
            manifest_pb2.GoldenAnswer(beam_size=size, max_tokens=MAX_TOKENS, tokens=each.tokens, score=round(each.score, 6))
            for size, each in answers.items()
        ],
    )


def add_golden_answers(folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: Sources) -> None:
    """Writes the file into a written bundle and names it in ``manifest``, which is still to be written.

    Raises:
        ExportError: as :func:`golden_answers`.
    """
    found = golden_answers(folder, manifest, model, sources)
    text = json_format.MessageToJson(found, preserving_proto_field_name=True, indent=None)
    (folder / GOLDEN_FILE).write_text(text + "\n", encoding="utf-8")
    manifest.golden_file = GOLDEN_FILE
