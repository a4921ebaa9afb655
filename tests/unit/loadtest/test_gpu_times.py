# SPDX-License-Identifier: Apache-2.0
"""The values that the checks of speed compute from measured times, and the PyTorch step of the comparison."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from attnserve_loadtest.gpu import floor as floor_module
from attnserve_loadtest.gpu import served, stepping
from attnserve_loadtest.gpu.torch_step import CAPACITY, POSITION, TorchStep
from attnserve_server.bundle.loader import load_bundle
from tests.driving import ALL_BUNDLES, DEFAULT_BUNDLE, STEP_BUNDLES

FLOOR = {
    "us_a_node_64_rows": 2.0,
    "us_a_node_1024_rows": 3.0,
    "up_2k_us": 8.0,
    "down_2k_us": 12.0,
    "copy_bytes_per_second": 4e12,
}


def test_the_floor_of_a_step_is_its_launches_and_copies_not_its_bytes() -> None:
    assert stepping.floor_ms(100, 64, FLOOR) == pytest.approx(0.220)
    assert stepping.floor_ms(100, 1024, FLOOR) == pytest.approx(0.320)
    assert stepping.bytes_ms(4_000_000, FLOOR) == pytest.approx(0.001)
    assert stepping.floor_ms(100, 64, {}) is None
    assert stepping.bytes_ms(100, {}) is None


@pytest.mark.parametrize("model", sorted(STEP_BUNDLES))
def test_bytes_of_a_step_are_counted_in_the_precision_of_the_variant(model: str) -> None:
    bundle = load_bundle(ALL_BUNDLES[model], "cuda")
    weights = (bundle.folder / "weights.bin").stat().st_size * (2 if bundle.variant.name == "fp32" else 1)
    none, one, many = (stepping.step_bytes(bundle, rows) for rows in (0, 1, 64))
    assert none == weights
    assert one - none > 4 * bundle.manifest.vocabulary.size
    assert many - none == 64 * (one - none)


@pytest.mark.parametrize(
    ("model", "slots", "count"),
    [("transformer-en-de", 64, 3 * 7), ("rnnsearch-en-de", 64, 2 * 7 * 2), ("transformer-en-de", 1024, 33)],
)
def test_captured_graphs_are_counted_by_graph_bucket_and_orientation(model: str, slots: int, count: int) -> None:
    assert stepping.num_captures(load_bundle(ALL_BUNDLES[model], "cuda"), slots) == count


class Tensor:
    """A device tensor on the host."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.dtype, self.values = shape, np.dtype(np.float16), np.zeros(shape, np.float16)
        self.rows = [Row(value) for value in self.values]


class Row:
    def __init__(self, value: Any) -> None:
        self.value = value

    def update_inplace(self, value: Any) -> None:
        self.value[...] = value


class Buffer:
    def __init__(self, current: Tensor, spare: Tensor | None) -> None:
        self.current, self.spare = current, spare


def test_states_are_filled_before_steps_are_timed() -> None:
    tensors = [Tensor(9, 4, 5), Tensor(9, 7), Tensor(9, 7)]

    class Runner:
        class state:
            buffers = {"cache": Buffer(tensors[0], None), "hidden": Buffer(tensors[1], tensors[2])}

    runner: Any = Runner()
    stepping.fill_states(runner)
    for tensor in tensors:
        assert all(row.value.std() > 0.1 for row in tensor.rows)
        assert all((a != b).any() for a, b in zip(tensor.values, tensor.values[1:], strict=False))


def test_costs_of_launches_and_copies_need_nothing_of_the_project() -> None:
    found = subprocess.run([sys.executable, "-I", floor_module.__file__], capture_output=True, text=True, check=True).stdout
    figures = json.loads(found)
    assert figures.keys() >= FLOOR.keys()
    assert all(figures[name] > 0 for name in ("copy_bytes_per_second", "up_2k_us", "graph_32_adds_64_rows_us"))


@pytest.fixture(scope="module")
def step() -> TorchStep:
    torch.manual_seed(0)
    return TorchStep(DEFAULT_BUNDLE, 3, "eager", device="cpu", dtype=torch.float32)


def test_pytorchs_step_is_that_of_the_model(step: TorchStep) -> None:
    """With its caches filled from the module for a sentence, both choose the same token."""
    model: Any = step.model
    source = torch.tensor([[11, 25, 300, 41, 7, 90, 4, 33, 21, 8, 610, 77, 29, 1000, 56, 3]])
    target = torch.tensor([[2, 10, 45, 9, 300, 7, 8, 21, 90, 4, 33, 77, 5]])
    assert target.shape[1] == POSITION + 1
    memory = model.encode(source)
    hidden, _ = model.decode(memory, source, target)
    expected = model.project(hidden[:, -1]).argmax(-1)
    x, heads = model.embed(target[:, :-1]), step.config.num_heads
    is_future = torch.ones(POSITION, POSITION, dtype=torch.bool).triu(1)[None, None]
    for index, layer in enumerate(model.decoder_layers):
        _, key, value = layer.self_attention.qkv(layer.self_norm(x)).unflatten(-1, (3, heads, -1)).unbind(-3)
        for cache, new in zip(step.caches[2 * index :], (key, value), strict=False):
            cache[:, :, :POSITION] = new.transpose(1, 2)
        keys, values = layer.cross_attention.key_value(memory).unflatten(-1, (2, heads, -1)).unbind(-3)
        step.memory[2 * index][:], step.memory[2 * index + 1][:] = keys.transpose(1, 2), values.transpose(1, 2)
        x, _ = layer(x, memory, is_future, (source == 0)[:, None, None, :])
    assert step.run().tolist() == expected.tolist() * 3


def test_pytorchs_step_sees_nothing_beyond_its_position(step: TorchStep) -> None:
    best = step.run()
    for cache in step.caches:
        cache[:, :, POSITION + 1 :] = 1e4
    assert step.run().equal(best)
    for cache in step.caches:
        cache[:, :, :POSITION] = 1e4 * torch.randn(POSITION, cache.shape[3])
    assert not step.run().equal(best)
    assert step.caches[0].shape[2] == CAPACITY


def test_pytorchs_step_reads_nothing_on_the_host() -> None:
    """``fullgraph`` refuses what a CUDA graph refuses: a value that the host must read during the step."""
    torch.manual_seed(0)
    compiled = TorchStep(DEFAULT_BUNDLE, 2, "compiled", device="cpu", dtype=torch.float32)
    torch.manual_seed(0)
    eager = TorchStep(DEFAULT_BUNDLE, 2, "eager", device="cpu", dtype=torch.float32)
    assert compiled.run().equal(eager.run())
    assert all(getattr(cache, "_dynamo_static_input_type", "") for cache in compiled.caches), "CUDA graphs would be left out"
    assert 0 < compiled.seconds(2) < math.inf


def test_only_cuda_has_graphs() -> None:
    with pytest.raises(ValueError, match="only CUDA"):
        TorchStep(DEFAULT_BUNDLE, 2, "captured", device="cpu")


@pytest.mark.load
def test_processor_time_is_that_of_the_child_and_of_its_children() -> None:
    burn = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {burn.format(0.6)!r} + 'print(1, flush=True); input()'])\n"
    child += burn.format(0.3) + "input()"
    before = served.cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        spent = {name: seconds - before.get(name, 0) for name, seconds in served.cpu_seconds().items()}
        process.stdin.close()
    assert 0.25 < spent[served.SERVER] < 0.6
    assert 0.55 < spent[served.WORKER] < 1.2
