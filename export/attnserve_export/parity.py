# SPDX-License-Identifier: Apache-2.0
"""Does the bundle compute what the module computes? Compared over a grid of shapes, and over whole decoded sentences.

The reference is the PyTorch module with the stored weights, run the slow way: the whole prefix at every step. The bundle is
run by ONNX Runtime in the plainest way that its manifest allows (all state through the host, one static batch).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export.exporter import ExportError
from attnserve_export.models.interface import TranslationModel
from attnserve_export.training.data import BEGIN_ID, END_ID, pad

TOLERANCE = 1e-4
MAX_NEAR_TIES = 0.01
GRID = [(rows, length) for rows in (1, 2, 5, 32) for length in (2, 7, 24, 61)]
POSITIONS = (0, 1, 9, 30)

Array = npt.NDArray[Any]


@dataclass(slots=True)
class StepResult:
    """Outputs of one step by name."""

    outputs: dict[str, Array]

    def logits(self) -> Array:
        """The scores over the vocabulary that the graph gives: logits, or log-probabilities."""
        return self.outputs["logits"] if "logits" in self.outputs else self.outputs["log_probs"]


class PlainRunner:
    """Drives one variant of a bundle for a static batch, ``group`` rows a request."""

    def __init__(self, folder: Path, manifest: manifest_pb2.Manifest, variant: manifest_pb2.Variant, step: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.manifest, self.step_graph = manifest, variant.steps[step].graph
        self.group = max(1, variant.steps[step].max_rows_of_request)
        names = (variant.encode.file, self.step_graph.file)
        self.encode_session, self.step_session = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"]) for name in names
        )
        self.inputs = {tensor.name: tensor for tensor in self.step_graph.inputs}

    def start(self, source: Array, lengths: Array) -> None:
        """Encodes a right-padded batch (B, L) and repeats hypothesis state ``group`` times."""
        encode = {value.name: value.type for value in self.encode_session.get_inputs()}
        feeds = {"source": source, "source_length": lengths.astype(np.int32 if "int32" in encode["source_length"] else np.int64)}
        names = [value.name for value in self.encode_session.get_outputs()]
        encoded: dict[str, Array] = dict(zip(names, _arrays(self.encode_session, names, feeds), strict=True))
        rows = len(source) * self.group
        self.fixed: dict[str, Array] = {
            "source_length": lengths,
            "request_of_row": np.arange(rows) // self.group,
            "rows_of_request": np.arange(rows).reshape(-1, self.group),
            "place_of_row": np.arange(rows),
        }
        self.state = {state.name: self._first(state, encoded, rows) for state in self.manifest.states}

    def _first(self, state: manifest_pb2.State, encoded: dict[str, Array], rows: int) -> Array:
        per_row = state.scope == manifest_pb2.SCOPE_HYPOTHESIS
        shape = [rows if per_row else rows // self.group]
        shape += [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
        value: Array = np.zeros(shape, np.float32)
        if state.encode_output:
            first = encoded[state.encode_output]
            first = np.repeat(first, self.group, 0) if per_row else first
            value[tuple(slice(0, size) for size in first.shape)] = first
        return value

    def step(self, tokens: Array, position: int) -> StepResult:
        """One step of all rows at the same position."""
        feeds = {"token": tokens, "position": np.full(len(tokens), position), **self.fixed, **self.state}
        dtypes = {manifest_pb2.DATA_TYPE_INT32: np.int32, manifest_pb2.DATA_TYPE_INT64: np.int64}
        feeds = {
            name: feeds[name].astype(dtypes.get(tensor.dtype, feeds[name].dtype), copy=False)
            for name, tensor in self.inputs.items()
        }
        names = [tensor.name for tensor in self.step_graph.outputs]
        outputs = dict(zip(names, _arrays(self.step_session, names, feeds), strict=True))
        for state in self.manifest.states:
            if state.step_output:
                self.state[state.name] = outputs[state.step_output]
        return StepResult(outputs)


def _arrays(session: onnxruntime.InferenceSession, names: list[str], feeds: dict[str, Array]) -> list[Array]:
    """Runs a session all of whose outputs are tensors."""
    return cast(list[Array], session.run(names, feeds))


@torch.no_grad()
def reference_logits(model: TranslationModel, source: torch.Tensor, target: torch.Tensor) -> Array:
    """Logits at the last target position: (B, V)."""
    hidden, _ = model.decode(model.encode(source), source, target)
    logits: Array = model.project(hidden[:, -1]).numpy()
    return logits


def grid_cases(folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel) -> list[manifest_pb2.ParityCase]:
    """Compares every CPU step graph over the grid; random tokens, the last row shorter than the others."""
    rng = np.random.default_rng(0)
    cases = []
    for variant in manifest.variants:
        if variant.device != manifest_pb2.DEVICE_CPU:
            continue
        for index, step in enumerate(variant.steps):
            runner = PlainRunner(folder, manifest, variant, index)
            for requests, length in GRID:
                cases += _grid_case(runner, model, rng, f"{variant.name}/{step.graph.file}", (requests, length))
    return cases


def _grid_case(
    runner: PlainRunner, model: TranslationModel, rng: np.random.Generator, name: str, shape: tuple[int, int]
) -> list[manifest_pb2.ParityCase]:
    requests, length = shape
    vocab = runner.manifest.vocabulary.size
    lengths = np.full(requests, length)
    lengths[-1] = max(1, length // 2)
    source = rng.integers(4, vocab, (requests, length))
    source[np.arange(length)[None] >= lengths[:, None]] = 0
    rows = requests * runner.group
    target = np.concatenate([np.full((rows, 1), BEGIN_ID), rng.integers(4, vocab, (rows, max(POSITIONS)))], 1)
    runner.start(source, lengths)
    repeated = torch.from_numpy(np.repeat(source, runner.group, 0))
    cases = []
    for position in range(max(POSITIONS) + 1):
        ours = runner.step(target[:, position], position).logits()
        if position in POSITIONS:
            theirs = reference_logits(model, repeated, torch.from_numpy(target[:, : position + 1]))
            difference = float(np.abs(ours - theirs).max())
            cases.append(
                manifest_pb2.ParityCase(
                    graph=name, rows=rows, source_tokens=length, position=position, max_abs_difference=float(f"{difference:.3g}")
                )
            )
    return cases


def decode_sentences(
    folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: list[list[int]], max_tokens: int = 60
) -> tuple[int, int]:
    """Decodes whole sentences greedily on both sides. Returns how many are identical, and how many differ at a near-tie."""
    runner = PlainRunner(folder, manifest, manifest.variants[0], 0)
    identical = near = 0
    for start in range(0, len(sources), 32):
        group = sources[start : start + 32]
        source = pad(group)
        runner.start(source.numpy(), np.array([len(row) for row in group]))
        tokens = np.full(len(group), BEGIN_ID)
        target = torch.full((len(group), 1), BEGIN_ID)
        state = np.zeros(len(group), np.int8)  # 0 running, 1 ended alike, 2 parted at a near-tie, 3 parted for no reason
        for position in range(max_tokens):
            ours = runner.step(tokens, position).logits().argmax(-1)
            theirs = reference_logits(model, source, target)
            best, second = np.sort(theirs, -1)[:, -1], np.sort(theirs, -1)[:, -2]
            parted = (ours != theirs.argmax(-1)) & (state == 0)
            state[parted] = np.where((best - second)[parted] > TOLERANCE, 3, 2)
            state[(ours == END_ID) & (state == 0)] = 1
            if (state != 0).all():
                break
            tokens = ours
            target = torch.cat([target, torch.from_numpy(ours)[:, None]], 1)
        identical += int((state <= 1).sum())
        near += int((state == 2).sum())
    return identical, near


def check_parity(
    folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: list[list[int]]
) -> manifest_pb2.ParityReport:
    """The whole report.

    Raises:
        ExportError: a difference beyond the tolerance, or sentences that differ without a near-tie (or in over 1 %).
    """
    cases = grid_cases(folder, manifest, model)
    identical, near = decode_sentences(folder, manifest, model, sources)
    report = manifest_pb2.ParityReport(
        tolerance=TOLERANCE, cases=cases, num_sentences=len(sources), num_identical=identical, num_near_ties=near
    )
    worst = max(cases, key=lambda case: case.max_abs_difference)
    problems = []
    if worst.max_abs_difference > TOLERANCE:
        problems.append(f"{worst.graph} differs by {worst.max_abs_difference:.2g} at {worst.rows} rows, position {worst.position}")
    if identical + near != len(sources) or near > MAX_NEAR_TIES * len(sources):
        problems.append(f"{len(sources) - identical} of {len(sources)} sentences differ, {near} of them at a near-tie")
    if problems:
        raise ExportError("parity: " + "; ".join(problems))
    return report
