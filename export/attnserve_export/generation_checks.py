# SPDX-License-Identifier: Apache-2.0
"""Checks of a generation bundle: its graphs against the PyTorch module, and what its stored weights lose; and its golden answers.

Images are compared before they are rounded to pixels, from -1 to 1: the graph's hyperbolic tangent becomes a further output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.golden import GOLDEN_FILE
from attnserve_export.parity import EXACT, TOLERANCE
from attnserve_export.parity_sources import Array
from attnserve_export.pass_golden import tensors_of, write_golden
from attnserve_export.pass_runner import PROBABILITIES, Outputs, PassRunner, session

PIXELS, ATTENTION, IMAGE = "pixels", "attention", "image"
Feeds = Mapping[str, Array]
Judge = Callable[[Array], Array]
"""Images uint8 (N, 32, 32, 3) -> classes int64 (N)."""
COUNTS = (1, 2, 5)
"""Batch sizes of the parity check, besides the largest one of all variants."""
MAX_LEVELS = 1.0
"""Largest mean difference of a variant of lower precision from the module, in grey levels of 255."""
MAX_MATE_DIFFERENCE = 1e-5
"""Of a value from -1 to 1, between an image alone and in a batch."""
MAX_LOSS = 0.5
"""Largest loss of the stored weights in the share of samples that are classified as asked, in percent."""
NUM_SAMPLES, NUM_COMPARED = 2000, 100
"""Samples of which this share is measured; and those whose pixels are compared without a judge."""
GOLDEN_DIFFERENCE, GOLDEN_SHARE = {True: 1.0, False: 12.0}, {True: 0.001, False: 0.02}
"""Grey levels by which a pixel may differ, and the share of pixels that may differ by more: of fp32, and of other variants."""
GOLDEN_ATTENTION = {True: 1e-3, False: 0.05}
_MATES = (2, 3, 8)
_NUM_GOLDEN = 3
_BATCH = 100


class GeneratorRunner:
    """Runs one graph of a variant on the CPU.

    Args:
        folder: the bundle's.
        graph: of a variant.

    Raises:
        ExportError: the graph has not one hyperbolic tangent.
    """

    def __init__(self, folder: Path, graph: manifest_pb2.PassGraph) -> None:
        self.file = graph.graph.file
        model = onnx.load(folder / self.file)
        found = [node.output[0] for node in model.graph.node if node.op_type == "Tanh"]
        if len(found) != 1:
            raise ExportError(f"{self.file} has {len(found)} hyperbolic tangents instead of one")
        model.graph.node.append(onnx.helper.make_node("Cast", [found[0]], [IMAGE], to=onnx.TensorProto.FLOAT))
        model.graph.output.append(onnx.helper.make_tensor_value_info(IMAGE, onnx.TensorProto.FLOAT, None))
        self._session = session(model)
        self._inputs = [each.name for each in graph.graph.inputs]
        self._names = [each.name for each in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> Outputs:
        """Returns all outputs, with ``IMAGE``: (B, 3, H, W) from -1 to 1."""
        found = self._session.run(self._names, {name: feeds[name] for name in self._inputs})
        return dict(zip(self._names, cast(Sequence[Array], found), strict=True))


def drawn(manifest: manifest_pb2.Manifest, count: int, seed: int) -> dict[str, Array]:
    """Returns the inputs of ``count`` images: latent vectors from N(0, 1), all classes in turn, and cells."""
    rng, made = np.random.default_rng(seed), manifest.single_pass.generated
    cells = (made.width // made.cell) * (made.height // made.cell)
    return {
        "latent": rng.standard_normal((count, manifest.single_pass.latent.size)).astype(np.float32),
        "label": np.arange(count) % len(manifest.single_pass.labels),
        "query": rng.integers(0, cells, (count, 1)),
    }


@torch.no_grad()
def reference(model: nn.Module, feeds: Feeds) -> Outputs:
    """Returns the module's images from -1 to 1, their pixels, and the attention of the cells."""
    image, attention = model(torch.from_numpy(feeds["latent"]), torch.from_numpy(feeds["label"]), give_attention=True)
    rows = attention.numpy()[np.arange(len(image))[:, None], feeds["query"]]
    return {IMAGE: image.numpy(), PIXELS: pixels_of(image.numpy()), ATTENTION: rows}


def pixels_of(image: Array) -> Array:
    """(B, 3, H, W) from -1 to 1 -> pixels uint8 (B, H, W, 3)."""
    return cast(Array, np.rint((image + 1) * 127.5).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def check_generator(folder: Path, manifest: manifest_pb2.Manifest, model: nn.Module) -> dict[str, Any]:
    """Adds the parity report to the manifest; returns what was measured, by variant and for batch mates.

    Raises:
        ExportError: a difference beyond its limit.
    """
    report, found, problems = manifest_pb2.ParityReport(tolerance=TOLERANCE), dict[str, Any](), list[str]()
    largest = max(each.max_batch for variant in manifest.variants for each in variant.passes)
    batches = [drawn(manifest, count, count) for count in (*COUNTS, largest)]
    theirs = [reference(model, feeds) for feeds in batches]
    if EXACT not in {each.name for each in manifest.variants}:
        raise ExportError(f"parity: there is no variant {EXACT}")
    for variant in {each.name: each for each in manifest.variants}.values():
        tally = _Tally()
        for each in variant.passes:
            runner = GeneratorRunner(folder, each)
            for feeds, wanted in zip(batches, theirs, strict=True):
                difference = tally.add(runner.run(feeds), wanted)
                if variant.name == EXACT:
                    case = f"{variant.name}/{runner.file}"
                    report.cases.add(graph=case, rows=len(feeds["label"]), max_abs_difference=float(f"{difference:.3g}"))
        found[variant.name] = tally.measured()
        problems += tally.problems(variant.name)
        if variant.name != EXACT:
            report.approximate.add(
                variant=variant.name, max_abs_difference=float(f"{tally.largest:.3g}"), identical_share=tally.identical
            )
    found["batch_mates"] = batch_mates(folder, manifest)
    if not found["batch_mates"]["max_difference"] <= MAX_MATE_DIFFERENCE:
        problems.append(f"batch mates change a value by {found['batch_mates']['max_difference']:.2g}")
    if problems:
        raise ExportError("parity: " + "; ".join(problems))
    manifest.parity.CopyFrom(report)
    return found


class _Tally:
    """Comparison of one variant's graphs with the module."""

    def __init__(self) -> None:
        self.largest, self._levels, self._same, self._count, self._far = 0.0, 0.0, 0, 0, 0

    def add(self, ours: Outputs, theirs: Outputs) -> float:
        """Adds a batch; returns the largest difference of a value before rounding, or of the attention; NaN counts."""
        differences = [np.abs(ours[name] - theirs[name]) for name in (IMAGE, ATTENTION) if name in ours]
        largest = max(float(np.nan_to_num(each, nan=np.inf).max()) for each in differences)
        levels = np.abs(ours[PIXELS].astype(int) - theirs[PIXELS])
        self.largest = max(self.largest, largest)
        self._levels, self._same, self._count = (
            self._levels + levels.sum(),
            self._same + (levels == 0).sum(),
            self._count + levels.size,
        )
        self._far += int((levels > 1).sum())
        return largest

    @property
    def identical(self) -> float:
        """Share of the pixels' values that are the same."""
        return float(self._same / self._count)

    def measured(self) -> dict[str, float]:
        """What the card reports."""
        return {
            "max_difference": float(f"{self.largest:.3g}"),
            "mean_levels": round(float(self._levels / self._count), 5),
            "identical_share": round(self.identical, 6),
        }

    def problems(self, name: str) -> list[str]:
        """Returns a message for each limit that is exceeded."""
        mean = self._levels / self._count
        if name != EXACT:
            return [] if mean <= MAX_LEVELS else [f"{name} differs by {mean:.2g} grey levels in the mean"]
        problems = [] if self.largest <= TOLERANCE else [f"{name} differs by {self.largest:.2g}"]
        return [*problems, f"{name} differs by more than one grey level in {self._far} values"] if self._far else problems


def batch_mates(folder: Path, manifest: manifest_pb2.Manifest) -> dict[str, Any]:
    """Compares images alone and in batches, with the plain fp32 graph: the largest difference before rounding, and of pixels."""
    runner = GeneratorRunner(folder, exact_of(manifest).passes[0])
    largest, different, total = 0.0, 0, 0
    for count in _MATES:
        feeds = drawn(manifest, count, 100 + count)
        together = runner.run(feeds)
        for at in range(count):
            alone = runner.run({name: value[at : at + 1] for name, value in feeds.items()})
            largest = max(largest, float(np.abs(alone[IMAGE][0] - together[IMAGE][at]).max()))
            different += int((alone[PIXELS][0] != together[PIXELS][at]).sum())
            total += alone[PIXELS].size
    return {"max_difference": float(f"{largest:.2g}"), "different_pixels": different, "pixels": total, "batches": list(_MATES)}


def exact_of(manifest: manifest_pb2.Manifest) -> manifest_pb2.Variant:
    """Returns the fp32 variant."""
    return next(each for each in manifest.variants if each.name == EXACT)


def judge_of(folder: Path) -> Judge:
    """Returns the classifier of a bundle as a judge.

    Raises:
        FileNotFoundError: there is no bundle in the folder.
    """
    from attnserve_export.bundle_writer import read_manifest

    manifest = read_manifest(folder)
    runner = PassRunner(folder, exact_of(manifest).passes[0], manifest.task)

    def classes(images: Array) -> Array:
        parts = [runner.run({"image": images[at : at + _BATCH]})[PROBABILITIES] for at in range(0, len(images), _BATCH)]
        return cast(Array, np.concatenate(parts).argmax(-1))

    return classes


def stored_loss(
    folder: Path, manifest: manifest_pb2.Manifest, trained: nn.Module, judge: Judge | None, count: int = 0
) -> dict[str, Any]:
    """Compares the samples of the bundle's fp32 graph with those of the trained weights, of the same latent vectors.

    Args:
        folder: the bundle's.
        manifest: the bundle's.
        trained: the module with the trained weights.
        judge: classifies the samples; None if there is none.
        count: number of samples; 0 for ``NUM_SAMPLES``, or ``NUM_COMPARED`` without a judge.

    Raises:
        ExportError: the share of samples that are classified as asked falls by more than ``MAX_LOSS`` percent.
    """
    count = count or (NUM_SAMPLES if judge is not None else NUM_COMPARED)
    runner, feeds = GeneratorRunner(folder, exact_of(manifest).passes[0]), drawn(manifest, count, 7)
    parts = [{name: value[at : at + _BATCH] for name, value in feeds.items()} for at in range(0, count, _BATCH)]
    ours = np.concatenate([runner.run(part)[PIXELS] for part in parts])
    theirs = np.concatenate([reference(trained, part)[PIXELS] for part in parts])
    levels = np.abs(ours.astype(int) - theirs)
    found: dict[str, Any] = {
        "samples": count,
        "mean_levels": round(float(levels.mean()), 4),
        "max_levels": int(levels.max()),
    }
    if judge is not None:
        shares = {"as_asked": judge(ours) == feeds["label"], "as_asked_trained": judge(theirs) == feeds["label"]}
        found |= {name: round(100 * float(each.mean()), 2) for name, each in shares.items()}
        loss = found["as_asked_trained"] - found["as_asked"]
        if not loss <= MAX_LOSS:
            raise ExportError(f"the stored weights lose {loss:.2f} % of the samples that are classified as asked")
    return found


def add_golden_images(folder: Path, manifest: manifest_pb2.Manifest, model: nn.Module) -> None:
    """Writes golden answers into a written bundle: drawn latent vectors, with the module's pixels and, of the first, attention."""
    found = manifest_pb2.GoldenPasses()
    feeds = drawn(manifest, _NUM_GOLDEN, 1)
    answers = reference(model, feeds)
    for at in range(_NUM_GOLDEN):
        names = (PIXELS, ATTENTION) if at == 0 else (PIXELS,)
        inputs = {name: np.asarray(value[at]) for name, value in feeds.items()}
        found.passes.add(inputs=tensors_of(inputs), outputs=tensors_of({name: answers[name][at] for name in names}))
    for variant in dict.fromkeys(each.name for each in manifest.variants):
        is_exact = variant == EXACT
        found.tolerances.add(variant=variant, output=PIXELS, difference=GOLDEN_DIFFERENCE[is_exact], share=GOLDEN_SHARE[is_exact])
        found.tolerances.add(variant=variant, output=ATTENTION, difference=GOLDEN_ATTENTION[is_exact])
    write_golden(folder / GOLDEN_FILE, manifest, found)
