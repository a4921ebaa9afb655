# SPDX-License-Identifier: Apache-2.0
"""Compares the graphs of a single-pass bundle with its PyTorch module, over batch sizes, image sizes and padding.

The fp32 graphs must give the module's probabilities and attention up to rounding, and its classes except at near-ties. A variant of
lower precision cannot: here only the divergence of its probabilities is checked; on the CPU, ONNX Runtime computes some of its
operators in 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.parity import EXACT, MAX_DIVERGENCE, TOLERANCE
from attnserve_export.parity_sources import Array
from attnserve_export.pass_runner import PROBABILITIES, Feeds, Outputs, PassRunner, mask_of, placed, reference, stacked

COUNTS = (1, 2)
"""Batch sizes of the grid, besides the largest one of all variants."""


@dataclass(slots=True)
class Tally:
    """Comparison of one variant's probabilities and classes with the module's, over all pixels or images."""

    num_compared: int = 0
    num_different: int = 0
    num_far: int = 0
    """Different classes where the module's two best probabilities differ by more than the tolerance."""
    total_divergence: float = 0.0
    max_difference: float = 0.0
    cases: list[manifest_pb2.ParityCase] = field(default_factory=list)

    def add(self, ours: Outputs, theirs: Outputs, kept: Array) -> float:
        """Adds a batch; ``kept``: bool, which pixels or images count. Returns the largest difference of any output."""
        found, wanted = (np.moveaxis(each[PROBABILITIES], 1, -1)[kept].astype(np.float64) for each in (ours, theirs))
        best = np.sort(wanted, -1)[:, -2:]
        differs = classes_of(ours)[kept] != wanted.argmax(-1)
        self.num_compared += len(wanted)
        self.num_different += int(differs.sum())
        self.num_far += int((differs & (best[:, 1] - best[:, 0] > TOLERANCE)).sum())
        self.total_divergence += float((wanted * (np.log(wanted + 1e-30) - np.log(found + 1e-30))).sum())
        differences = [float(np.abs(found - wanted).max())]
        differences += [float(np.abs(ours[name] - theirs[name]).max()) for name in theirs if name != PROBABILITIES and name in ours]
        if "confidence" in ours:  # in whole steps of 1 / 255
            differences.append(float(np.abs(ours["confidence"][kept] / 255 - best[:, 1]).max()) - 0.5 / 255)
        largest = max(differences)
        self.max_difference = max(self.max_difference, largest)
        return largest


def classes_of(outputs: Outputs) -> Array:
    """Returns the classes that a graph's answer states: its own class map, or the most probable class."""
    found: Array = outputs["classes"] if "classes" in outputs else outputs[PROBABILITIES].argmax(1)
    return found


def grid(manifest: manifest_pb2.Manifest, pictures: Sequence[Array]) -> list[dict[str, Array]]:
    """Returns the batches of the check: all image sizes with padding, all batch sizes; pictures, and one of noise in each."""
    rng = np.random.default_rng(0)
    most = max(each.max_batch for variant in manifest.variants for each in variant.passes)
    picture = manifest.single_pass.picture
    batches = []
    for index, size in enumerate(picture.sizes or [manifest_pb2.PictureSize()]):
        for count in (*COUNTS, *([most] if index == 0 and most > max(COUNTS) else [])):
            drawn = [pictures[each] for each in rng.integers(len(pictures), size=count)]
            drawn[-1] = rng.integers(0, 256, drawn[-1].shape).astype(np.uint8) if count > 1 else drawn[-1]
            if picture.fit == manifest_pb2.FIT_PAD:
                shapes = [each[: rng.integers(each.shape[0] // 2, each.shape[0] + 1)] for each in drawn]
                batches.append(placed(shapes, size.width, size.height, picture.cell, rng))
            else:
                batches.append(stacked(manifest.single_pass, drawn, rng))
    return batches


def kept_of(feeds: Feeds) -> Array:
    """Returns which pixels, or images or clips, of a batch count."""
    return mask_of(feeds) if "size" in feeds else np.ones(len(next(iter(feeds.values()))), bool)


def compare(folder: Path, manifest: manifest_pb2.Manifest, model: nn.Module, batches: Sequence[Feeds]) -> dict[str, Tally]:
    """Returns the comparison of each variant; the fp32 variants share their graphs, which are compared once."""
    runners: dict[str, list[PassRunner]] = {}
    for variant in manifest.variants:
        if variant.name not in runners:
            runners[variant.name] = [PassRunner(folder, each, manifest.task) for each in variant.passes]
    tallies = {name: Tally() for name in runners}
    for feeds in batches:
        theirs, kept = reference(model, feeds), kept_of(feeds)
        for name, each in ((name, runner) for name, found in runners.items() for runner in found):
            difference = float(f"{tallies[name].add(each.run(feeds), theirs, kept):.3g}")
            tallies[name].cases.append(_case(f"{name}/{each.file}", feeds, manifest, difference))
    return tallies


def _case(graph: str, feeds: Feeds, manifest: manifest_pb2.Manifest, difference: float) -> manifest_pb2.ParityCase:
    declared = manifest.single_pass
    if declared.HasField("clip"):
        grid, count = declared.clip.cells, len(feeds["clip"])
        cells = grid.times * grid.rows * grid.columns
    else:
        (count, height, width), cell = feeds["image"].shape[:3], declared.picture.cell
        cells = -(-height // cell) * -(-width // cell) if cell else 0
    return manifest_pb2.ParityCase(graph=graph, rows=count, source_tokens=cells, max_abs_difference=difference)


def check_passes(
    folder: Path, manifest: manifest_pb2.Manifest, model: nn.Module, pictures: Sequence[Array]
) -> tuple[manifest_pb2.ParityReport, dict[str, Any]]:
    """Makes the parity report, and the counts behind it by variant.

    Raises:
        ExportError: a difference beyond the tolerance, a class that differs without a near-tie, or a divergence that is too large.
    """
    tallies = compare(folder, manifest, model, grid(manifest, pictures))
    if EXACT not in tallies:
        raise ExportError(f"parity: there is no variant {EXACT}")
    report = manifest_pb2.ParityReport(tolerance=TOLERANCE, cases=tallies[EXACT].cases)
    for name, tally in tallies.items():
        if name != EXACT:
            report.approximate.add(
                variant=name,
                max_abs_difference=float(f"{tally.max_difference:.3g}"),
                divergence=float(f"{max(0.0, tally.total_divergence) / tally.num_compared:.3g}"),
                max_divergence=MAX_DIVERGENCE,
                identical_share=1 - tally.num_different / tally.num_compared,
            )
    problems = find_problems(report, tallies[EXACT])
    if problems:
        raise ExportError("parity: " + "; ".join(problems))
    counts = {
        name: {"compared": each.num_compared, "different": each.num_different, "not_near_ties": each.num_far}
        for name, each in tallies.items()
    }
    return report, counts


def find_problems(report: manifest_pb2.ParityReport, exact: Tally) -> list[str]:
    """Returns a message for each value of a report that is beyond its tolerance or NaN."""
    problems = []
    for case in report.cases:
        if not case.max_abs_difference <= TOLERANCE:  # true for NaN too
            problems.append(f"{case.graph} differs by {case.max_abs_difference:.2g} in a batch of {case.rows}")
    if exact.num_far:
        problems.append(f"{exact.num_far} of {exact.num_compared} classes differ without a near-tie")
    for variant in report.approximate:
        if not variant.divergence <= MAX_DIVERGENCE:
            problems.append(f"{variant.variant} diverges by {variant.divergence:.2g} nats")
    return problems
