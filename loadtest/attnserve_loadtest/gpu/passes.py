# SPDX-License-Identifier: Apache-2.0
"""Single-pass models on CUDA: outputs against the fp32 graph on the CPU; time per input with CUDA graphs, without, and in PyTorch.

The inputs are those of a bundle's golden answers, and variations of them (``pass_inputs.py``). The tolerances are those of the
golden answers too: they say for each variant and output by how much how many elements may differ.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_loadtest.gpu.context import Context, torch_device
from attnserve_loadtest.gpu.pass_inputs import made, payloads_of, sizes_of, varied
from attnserve_loadtest.gpu.results import Skip, note
from attnserve_loadtest.gpu.stepping import median_s
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.execution.factory import make_pass_runner
from attnserve_server.execution.pass_runner import BatchKey, PassRunner
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.passes import PassPayload, PassTensor

BATCHES = (1, 4)
"""Batches that are timed; a start warms up the buckets up to the largest one."""
MOST_SIZES = 2
"""Sizes of the input that are warmed up and timed, from the first: cuDNN tries all its algorithms for each."""
REPETITIONS = 20
Answer = Mapping[str, PassTensor]


class Run(NamedTuple):
    """What is timed: width and height of the input, batch, and whether the attention is computed."""

    size: tuple[int, int]
    batch: int
    wants_attention: bool

    def __str__(self) -> str:
        return f"{self.size[0]}x{self.size[1]}, batch {self.batch}{', attention' if self.wants_attention else ''}"


def passes(context: Context, figures: dict[str, Any]) -> None:
    """Start and parity of all single-pass bundles' CUDA variants, then their times per input.

    Raises:
        AssertionError: the outputs of a variant are not those of the CPU.
        Skip: no bundle has a CUDA variant.
    """
    problems, runners, expected = list[str](), dict[str, PassRunner](), dict[Path, list[Answer]]()
    for path, variant in context.in_time(context.pass_variants(), figures, _name):
        bundle, name, began = _with_few_sizes(load_bundle(path, "cuda", variant)), _name((path, variant)), time.monotonic()
        runners[name] = started(bundle, captures=True)
        took = time.monotonic() - began
        if path not in expected:
            expected[path] = expected_of(path)
        agreement = parity(runners[name], expected[path])
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
        figures[name] = figures[name] | {"ms_an_input": {str(run): entry for run, entry in times.items()}}
        for run, entry in times.items():
            if run.size == next(iter(times)).size and not run.wants_attention:
                shown = ", ".join(f"{kind} {value}" for kind, value in entry.items())
                note(figures, f"{name}, ms an input", f"batch {run.batch} {shown}")
    assert not context.looks_at_values or not problems, f"not as on the CPU: {', '.join(problems)}"


def started(bundle: Bundle, *, captures: bool, most: int = 0) -> PassRunner:
    """A warm runner of batches up to ``most``; by default up to the largest of :data:`BATCHES`."""
    runner = make_pass_runner(bundle, most or BATCHES[-1], captures=captures)
    for _ in runner.starting():
        pass
    return runner


def expected_of(path: Path) -> list[Answer]:
    """The answers of the fp32 graphs on the CPU to :func:`asked_of`, one by one."""
    bundle = load_bundle(path, "cpu", "fp32")
    return answers_of(started(bundle, captures=False, most=1), asked_of(bundle), 1)


def asked_of(bundle: Bundle) -> list[PassPayload]:
    """The requests of :func:`parity`, which are the same for all variants."""
    golden = payloads_of(bundle)
    return [*golden, *(varied(bundle, each, seed) for seed, each in enumerate(golden))]


def parity(runner: PassRunner, expected: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Compares a runner with the CPU: each request alone, and in batches of the largest of :data:`BATCHES`.

    Args:
        runner: warm.
        expected: see :func:`expected_of`.

    Returns:
        By output, see :func:`agreement_of`.
    """
    bundle, asked = runner.bundle, asked_of(runner.bundle)
    found = answers_of(runner, asked, 1), answers_of(runner, asked, BATCHES[-1])
    dtypes = {tensor.name: NUMPY_TYPES[tensor.dtype] for each in bundle.variant.passes for tensor in each.graph.outputs}
    tolerances = tolerances_of(bundle)
    return {
        name: agreement_of(
            np.concatenate([_flat(answers, name, dtype) for answers in found]),
            np.concatenate([_flat(expected, name, dtype)] * len(found)),
            tolerances[name],
        )
        for name, dtype in dtypes.items()
    }


def answers_of(runner: PassRunner, asked: Sequence[PassPayload], batch: int) -> list[Answer]:
    """The outputs of each request; those that may share a batch are run in batches of at most ``batch``."""
    alike: dict[BatchKey, list[int]] = {}
    for index, payload in enumerate(asked):
        alike.setdefault(runner.key(payload), []).append(index)
    answers: dict[int, Answer] = {}
    for key, indices in alike.items():
        for start in range(0, len(indices), batch):
            together = indices[start : start + batch]
            answers |= zip(together, runner.run(key, [asked[index] for index in together])[0], strict=True)
    return [answers[index] for index in range(len(asked))]


def agreement_of(
    found: npt.NDArray[Any], expected: npt.NDArray[Any], allowed: manifest_pb2.GoldenOutputTolerance
) -> dict[str, Any]:
    """Compares two arrays of one shape.

    Returns:
        The share of elements that are further apart than the tolerance, the largest distance of any two elements, the tolerance,
        and whether the share is allowed.
    """
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    share = float(np.mean(~(apart <= allowed.difference)))  # NaN counts as apart
    return {
        "share_apart": share,
        "most_apart": float(np.max(apart)),
        "tolerance": allowed.difference,
        "is_within": share <= allowed.share,
    }


def tolerances_of(bundle: Bundle) -> dict[str, manifest_pb2.GoldenOutputTolerance]:
    """By output: the tolerance of the golden answers for the bundle's variant."""
    golden = json_format.Parse(bundle.read(bundle.manifest.golden_file), manifest_pb2.GoldenPasses())
    return {each.output: each for each in golden.tolerances if each.variant == bundle.variant.name}


def times_of(captured: PassRunner, plain: PassRunner) -> dict[Run, dict[str, float]]:
    """Milliseconds per input, the median, with CUDA graphs and without; copies to the device and back included."""
    bundle = captured.bundle
    wishes = sorted({each.gives_attention for each in bundle.variant.passes})
    found: dict[Run, dict[str, float]] = {}
    for run in (Run(size, batch, wish) for size in sizes_of(bundle) for batch in BATCHES for wish in wishes):
        requests = [made(bundle, run.size, 0, wants_attention=run.wants_attention)] * run.batch
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
            payload = made(load_bundle(path, "cuda", variant), run.size, 0, wants_attention=False)
            repetitions = REPETITIONS if device == "cuda" else 1
            entry["torch"] = round(1e3 * median_s(functools.partial(module.run, [payload] * run.batch), repetitions) / run.batch, 4)


def _flat(answers: Sequence[Answer], name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """All elements of an output, of the answers that have it."""
    return np.concatenate([np.frombuffer(each[name].data, dtype) for each in answers if name in each])


def _with_few_sizes(bundle: Bundle) -> Bundle:
    del bundle.manifest.single_pass.picture.sizes[MOST_SIZES:]
    return bundle


def _name(case: Sequence[Any]) -> str:
    path, variant = case
    return f"{path.parent.name} {variant}"
