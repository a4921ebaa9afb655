# SPDX-License-Identifier: Apache-2.0
"""Single-pass models on CUDA: outputs against the fp32 graph on the CPU; time per image with CUDA graphs, without, and in PyTorch.

The pictures are those of a bundle's golden answers, also mirrored. The tolerances are those of the golden answers too: they say for
each variant and output by how much how many elements may differ.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_loadtest.gpu.context import Context, torch_device
from attnserve_loadtest.gpu.results import Skip, note
from attnserve_loadtest.gpu.stepping import median_s
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.engine.worker.single_pass.golden import golden_groups
from attnserve_server.execution.factory import make_pass_runner
from attnserve_server.execution.pass_runner import PassRunner
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.passes import PassPayload, PassTensor

BATCHES = (1, 4)
"""Batches that are timed; a start warms up the buckets up to the largest one."""
MOST_SIZES = 2
"""Sizes of the input that are warmed up and timed, from the first: cuDNN tries all its algorithms for each."""
REPETITIONS = 20


class Run(NamedTuple):
    """What is timed: width and height of the input, batch, and whether the attention is computed."""

    size: tuple[int, int]
    batch: int
    wants_attention: bool

    def __str__(self) -> str:
        return f"{self.size[0]}x{self.size[1]}, batch {self.batch}{', attention' if self.wants_attention else ''}"


def passes(context: Context, figures: dict[str, Any]) -> None:
    """Parity of all single-pass bundles' CUDA variants, then their times per image.

    Raises:
        AssertionError: the outputs of a variant are not those of the CPU.
        Skip: no bundle has a CUDA variant.
    """
    problems, runners = list[str](), dict[str, PassRunner]()
    for path, variant in context.in_time(context.pass_variants(), figures, _name):
        bundle, name, began = _with_few_sizes(load_bundle(path, "cuda", variant)), _name((path, variant)), time.monotonic()
        runners[name] = started(bundle, captures=True)
        took = time.monotonic() - began
        agreement = parity(runners[name], path)
        figures[name] = {"start_s": round(took, 2), "outputs": agreement}
        worst = max(agreement.values(), key=lambda each: each["share_apart"])
        note(figures, name, f"start {took:.1f} s, share apart {worst['share_apart']:.4f}, most {worst['most_apart']:.2g}")
        problems += [f"{name} {output}" for output, each in agreement.items() if not each["is_within"]]
    for path, variant in context.in_time(context.pass_variants(), figures, lambda case: f"{_name(case)}, times"):
        name = _name((path, variant))
        if name not in runners:
            continue
        times = times_of(runners[name], started(runners[name].bundle, captures=False))
        _add_torch(context, path, variant, times)
        figures[name] = figures[name] | {"ms_an_image": {str(run): entry for run, entry in times.items()}}
        for run, entry in times.items():
            if run.size == next(iter(times)).size and not run.wants_attention:
                shown = ", ".join(f"{kind} {value}" for kind, value in entry.items())
                note(figures, f"{name}, ms an image", f"batch {run.batch} {shown}")
    assert not context.looks_at_values or not problems, f"not as on the CPU: {', '.join(problems)}"


def started(bundle: Bundle, *, captures: bool) -> PassRunner:
    """A warm runner of batches up to the largest of :data:`BATCHES`."""
    runner = make_pass_runner(bundle, BATCHES[-1], captures=captures)
    for _ in runner.starting():
        pass
    return runner


def parity(runner: PassRunner, path: Path) -> dict[str, dict[str, Any]]:
    """Compares a runner with the fp32 graph on the CPU.

    Returns:
        By output: the share of elements that are further apart than the variant's tolerance, the largest distance of any two
        elements, and whether the share is allowed.
    """
    bundle = runner.bundle
    expected_by = started(load_bundle(path, "cpu", "fp32"), captures=False)
    asked = [payload for golden in payloads_of(bundle) for payload in (golden, mirrored(golden))]
    found, expected = ([_run(each, payload) for payload in asked] for each in (runner, expected_by))
    dtypes = {tensor.name: NUMPY_TYPES[tensor.dtype] for each in bundle.variant.passes for tensor in each.graph.outputs}
    tolerances = _tolerances(bundle)
    agreement = {}
    for name, dtype in dtypes.items():
        mine, right = (
            np.concatenate([np.frombuffer(each[name].data, dtype).astype(np.float64) for each in answers])
            for answers in (found, expected)
        )
        apart, allowed = np.abs(mine - right), tolerances[name]
        share = float(np.mean(~(apart <= allowed.difference)))  # NaN counts as apart
        agreement[name] = {
            "share_apart": share,
            "most_apart": float(np.max(apart)),
            "tolerance": allowed.difference,
            "is_within": share <= allowed.share,
        }
    return agreement


def payloads_of(bundle: Bundle) -> list[PassPayload]:
    """The inputs of the golden answers, with the attention where the bundle has a graph that gives it."""
    wants = any(each.gives_attention for each in bundle.variant.passes)
    return [PassPayload(each.payload.inputs, wants) for each in golden_groups(bundle)[0]]


def mirrored(payload: PassPayload) -> PassPayload:
    """The same request with its image mirrored from top to bottom; with padding, from left to right it would lie elsewhere."""
    image = payload.inputs["image"]
    inside = np.frombuffer(payload.inputs["size"].data, np.int64)[0] if "size" in payload.inputs else image.shape[0]
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.shape).copy()
    pixels[:inside] = pixels[:inside][::-1]
    return PassPayload(payload.inputs | {"image": PassTensor(image.shape, pixels.tobytes())}, payload.wants_attention)


def times_of(captured: PassRunner, plain: PassRunner) -> dict[Run, dict[str, float]]:
    """Milliseconds per image, the median, with CUDA graphs and without; copies to the device and back included."""
    bundle = captured.bundle
    wishes = sorted({each.gives_attention for each in bundle.variant.passes})
    sizes = [(each.width, each.height) for each in bundle.manifest.single_pass.picture.sizes]
    found: dict[Run, dict[str, float]] = {}
    for run in (Run(size, batch, wish) for size in sizes for batch in BATCHES for wish in wishes):
        requests = [_noise(bundle, run)] * run.batch
        entry = {}
        for kind, runner in (("graph", captured), ("plain", plain)):
            key = runner.key(requests[0])
            seconds = median_s(functools.partial(runner.run, key, requests), REPETITIONS)
            entry[kind] = round(1e3 * seconds / run.batch, 4)
        found[run] = entry
    return found


def _add_torch(context: Context, path: Path, variant: str, times: dict[Run, dict[str, float]]) -> None:
    """Adds the time of PyTorch, eager, where it has the device; in a rehearsal, that of the CPU."""
    try:
        device = torch_device()
    except Skip:
        return
    if device == "cpu" and context.looks_at_values:
        return
    from attnserve_loadtest.gpu.torch_pass import TorchPass

    module = TorchPass(path, device, is_half="16" in variant)
    for run, entry in times.items():
        if not run.wants_attention:
            images = np.random.default_rng(0).integers(0, 256, (run.batch, run.size[1], run.size[0], 3), np.uint8)
            repetitions = REPETITIONS if device == "cuda" else 1
            entry["torch"] = round(1e3 * median_s(functools.partial(module.run, images), repetitions) / run.batch, 4)


def _run(runner: PassRunner, payload: PassPayload) -> Mapping[str, PassTensor]:
    return runner.run(runner.key(payload), [payload])[0][0]


def _noise(bundle: Bundle, run: Run) -> PassPayload:
    """A request whose picture is noise that fills the input."""
    width, height = run.size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    inputs = {"image": PassTensor((height, width, 3), pixels.tobytes())}
    for tensor in bundle.variant.passes[-1].graph.inputs:
        if tensor.name == "size":
            inputs["size"] = PassTensor((2,), np.array([height, width], np.int64).tobytes())
        elif tensor.name == "query":
            inputs["query"] = PassTensor((int(tensor.axes[1]),), np.zeros(int(tensor.axes[1]), np.int64).tobytes())
    return PassPayload(inputs, run.wants_attention)


def _tolerances(bundle: Bundle) -> dict[str, manifest_pb2.GoldenOutputTolerance]:
    golden = json_format.Parse(bundle.read(bundle.manifest.golden_file), manifest_pb2.GoldenPasses())
    return {each.output: each for each in golden.tolerances if each.variant == bundle.variant.name}


def _with_few_sizes(bundle: Bundle) -> Bundle:
    del bundle.manifest.single_pass.picture.sizes[MOST_SIZES:]
    return bundle


def _name(case: Sequence[Any]) -> str:
    path, variant = case
    return f"{path.parent.name} {variant}"
