# SPDX-License-Identifier: Apache-2.0
"""A fake model and its runner: its state identifies the request, and its answers depend on the state."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnserve.v1 import manifest_pb2
from attnserve_server.execution.slot_state import SlotState
from attnserve_server.execution.step import InputArrays, StepInputs, StepOutputs
from tests.fakes.models import make_bundle

VOCAB_SIZE, BEGIN_ID, END_ID = 12, 2, 3
NO_UNKNOWN = VOCAB_SIZE
"""Id of an unknown symbol that no search can choose."""
CAPACITY = 24
LAYERS, HEADS = 2, 2
NOTHING = -1.0


def manifest(
    unknown_id: int = NO_UNKNOWN, *, gives_attention: bool = True, block_sizes: Sequence[int] = ()
) -> manifest_pb2.Manifest:
    """Three states: the tokens, written in place; a sum, written to another buffer; and the request's source."""
    steps = [manifest_pb2.StepGraph(max_rows_of_request=size, block_rows=size) for size in block_sizes]
    steps.append(manifest_pb2.StepGraph(gives_attention=gives_attention))
    row, request = manifest_pb2.SCOPE_HYPOTHESIS, manifest_pb2.SCOPE_REQUEST
    states = [
        manifest_pb2.State(
            name="trail", scope=row, axes=["row", "target"], step_output="next_trail", in_place=True, growing_axis="target",
            capacity=CAPACITY,
        ),
        manifest_pb2.State(name="total", scope=row, axes=["row", "1"], step_output="next_total", encode_output="first_total"),
        manifest_pb2.State(
            name="memory", scope=request, axes=["request", "source"], encode_output="memory", growing_axis="source",
            capacity=CAPACITY,
        ),
    ]  # fmt: skip
    return manifest_pb2.Manifest(
        format_version=1,
        model_id="made-up",
        version="1",
        vocabulary=manifest_pb2.Vocabulary(size=VOCAB_SIZE, begin_id=BEGIN_ID, end_id=END_ID, unknown_id=unknown_id),
        limits=manifest_pb2.Limits(max_source_tokens=CAPACITY - 1, max_target_tokens=CAPACITY, max_beam_size=8),
        attention=manifest_pb2.AttentionOutput(output="attention", num_layers=LAYERS, num_heads=HEADS),
        states=states,
        variants=[manifest_pb2.Variant(steps=steps)],
    )


@functools.cache
def log_probs(source: tuple[int, ...], prefix: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The fake model: a distribution for every source and every prefix; the end symbol's probability grows with the length."""
    rng = random.Random(f"{source}/{prefix}")
    logits = torch.tensor([rng.gauss(0, 1.5) for _ in range(VOCAB_SIZE)])
    logits[END_ID] += 0.35 * len(prefix) - 0.5
    result: np.ndarray[Any, np.dtype[np.float32]] = logits.log_softmax(-1).numpy()
    return result


@functools.cache
def attention(source: tuple[int, ...], prefix: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(layers, heads, source): different numbers for every source and prefix."""
    rng = random.Random(f"attention/{source}/{prefix}")
    return np.array([rng.random() for _ in range(LAYERS * HEADS * len(source))], np.float32).reshape(LAYERS, HEADS, -1)


class Toy:
    """The fake model in the form that the reference search takes: hidden states of the last token only."""

    def __init__(self, gives_attention: bool = False) -> None:
        self._gives_attention = gives_attention

    def encode(self, src: Tensor) -> Tensor:
        return src[:, :, None].float()

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        pairs = [(tuple(source), tuple(target[1:])) for source, target in zip(src.tolist(), tgt.tolist(), strict=True)]
        hidden = torch.from_numpy(np.stack([log_probs(source, prefix) for source, prefix in pairs]))[:, None]
        if not self._gives_attention:
            return hidden, []
        weights = [[attention(source, prefix[:count]) for count in range(len(prefix) + 1)] for source, prefix in pairs]
        return hidden, list(torch.from_numpy(np.array(weights)).permute(2, 0, 3, 1, 4))

    def project(self, hidden: Tensor) -> Tensor:
        return hidden


class FakeRunner:
    """A runner over real slots. Every step reads only the state of each row, so a wrong copy changes the answer.

    ``fail_encodes`` and ``fail_steps`` are the numbers of the calls that raise; ``layouts`` counts steps by their blocks' rows, and
    ``num_repeated`` those with the layout of the step before.
    """

    def __init__(
        self, num_slots: int, *, unknown_id: int = NO_UNKNOWN, gives_attention: bool = True, block_sizes: Sequence[int] = ()
    ) -> None:
        self.bundle = make_bundle(manifest(unknown_id, gives_attention=gives_attention, block_sizes=block_sizes))
        self.layouts, self.num_repeated = Counter[int](), 0
        self._last: StepInputs | None = None
        self.num_slots, self.num_cold_shapes = num_slots, 0
        self.inputs = InputArrays.of(num_slots, lambda name, dtype: None)
        self.fail_encodes: set[int] = set()
        self.fail_steps: set[int] = set()
        self.num_encodes = self.num_steps = 0
        self.group_sizes: list[int] = []
        self.gives_attention = gives_attention
        dtypes = {"trail": np.dtype(np.float32), "total": np.dtype(np.float32), "memory": np.dtype(np.float32)}
        self.state = SlotState(self.bundle.manifest.states, dtypes, num_slots)
        for buffer in self.state.buffers.values():
            buffer.current[...] = NOTHING

    def start(self) -> None:
        """Loads nothing."""

    def warming(self) -> Iterator[None]:
        """Warms up nothing."""
        return iter(())

    def encode(self, sources: Sequence[Sequence[int]]) -> dict[str, Any]:
        self.num_encodes += 1
        if self.num_encodes in self.fail_encodes:
            raise RuntimeError("planted")
        self.group_sizes.append(len(sources))
        memory = np.full((len(sources), max(map(len, sources))), NOTHING, np.float32)
        for row, source in zip(memory, sources, strict=True):
            row[: len(source)] = source
        return {"memory": memory, "first_total": np.array([[sum(source)] for source in sources], np.float32)}

    def step(self, inputs: StepInputs) -> StepOutputs:
        self.num_steps += 1
        rows = len(inputs.tokens)
        assert 0 < rows <= self.num_slots
        self._check_layout(inputs)
        self.layouts[inputs.block_rows] += 1
        self.num_repeated += inputs is self._last
        self._last = inputs
        if self.num_steps in self.fail_steps:
            raise RuntimeError("planted")
        trail, total, memory = (self.state.buffers[name] for name in ("trail", "total", "memory"))
        scores = np.zeros((rows, VOCAB_SIZE), np.float32)
        weights = np.full((rows, LAYERS, HEADS, CAPACITY), NOTHING, np.float32)
        assert total.spare is not None
        for row, (token, position) in enumerate(zip(inputs.tokens, inputs.positions, strict=True)):
            request = inputs.request_of_row[row]
            trail.current[row, position] = token
            source = tuple(int(value) for value in memory.current[request, : inputs.source_lengths[request]])
            prefix = tuple(int(value) for value in trail.current[row, 1 : position + 1])
            assert trail.current[row, 0] == BEGIN_ID
            total.spare[row] = total.current[row] + (token if position else 0)
            assert total.spare[row, 0] == sum(source) + sum(prefix), "the states of a row are of different hypotheses"
            scores[row] = log_probs(source, prefix)
            weights[row, ..., : len(source)] = attention(source, prefix)
        self.state.flip()
        if inputs.block_rows:
            best = np.argsort(-scores, axis=-1, kind="stable")[:, : 2 * inputs.block_rows]
            return StepOutputs({"top_tokens": best, "top_log_probs": np.take_along_axis(scores, best, -1)}, None)
        return StepOutputs({"log_probs": scores}, weights if inputs.wants_attention and self.gives_attention else None)

    def _check_layout(self, inputs: StepInputs) -> None:
        rows, requests = len(inputs.tokens), len(inputs.source_lengths)
        assert len(inputs.positions) == len(inputs.request_of_row) == rows
        assert len(inputs.rows_of_request) == requests
        assert sorted(row for members in inputs.rows_of_request for row in members) == list(range(rows))
        assert all(
            inputs.request_of_row[row] == request for request, members in enumerate(inputs.rows_of_request) for row in members
        )
        if inputs.block_rows:
            assert all(inputs.request_of_row[row] == row // inputs.block_rows for row in range(rows))
            assert not inputs.wants_attention
            assert rows == requests * inputs.block_rows
