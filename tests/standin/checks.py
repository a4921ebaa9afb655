# SPDX-License-Identifier: Apache-2.0
"""Checks of the CUDA path, run by ``test_cuda.py`` over the stand-in libraries: ``checks.py <name> <bundle>``."""

from __future__ import annotations

import ctypes
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.engine.worker.iterative.factory import make_loop
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.errors import ExecutionFailed
from attnserve_server.execution.cuda import CudaMemory, row_buckets
from attnserve_server.execution.device_state import DeviceState
from attnserve_server.execution.device_tensor import DeviceTensor
from attnserve_server.execution.factory import make_pass_runner
from attnserve_server.execution.session import cuda_options, make_session
from attnserve_server.execution.slot_state import SlotState
from attnserve_server.request import AttentionDetail, DecodeOptions, Done, Failed, FinishReason, SequenceWork, sequence_work
from attnserve_server.scheduling.scheduler import SchedulerConfig
from tests.fakes.passes import CELL, SIZES, payload
from tests.standin.passes import UNCAPTURED

NUM_SLOTS = 20
SHAPE_ARITHMETIC = {"Concat", "Shape"}
"""Operators that ONNX Runtime may place on the CPU because they compute shapes; a replay does not need them."""


class Counts(NamedTuple):
    """The calls that the stand-in received."""

    kernels: int
    copies: int
    launches: int
    forbidden: int
    captures: int
    out_of_order: int
    allocations: int


def counts() -> Counts:
    found = (ctypes.c_int * len(Counts._fields))()
    ctypes.CDLL("libcudart.so.13").standin_counts(found)
    return Counts(*found)


def check_placement(bundle: Bundle) -> None:
    """Every node of every step graph runs on CUDA, except shape arithmetic."""
    for step in bundle.variant.steps:
        on_cuda, on_cpu = placed(bundle.folder / step.graph.file)
        assert on_cuda > 50
        assert on_cpu <= SHAPE_ARITHMETIC


def check_pass_placement(bundle: Bundle) -> None:
    """All single-pass graphs of all CUDA variants can be captured: of others, ONNX Runtime makes no session here."""
    for variant in bundle.manifest.variants:
        if variant.device == manifest_pb2.DEVICE_CUDA:
            for each in variant.passes:
                assert placed(bundle.folder / each.graph.file)[0] > 50


def placed(graph: Path) -> tuple[int, set[str]]:
    """The number of a graph's nodes that ONNX Runtime places on CUDA, and the operators that it places on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [("CUDAExecutionProvider", cuda_options(captures=True))]
    session = onnxruntime.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
    on_cpu, on_cuda = [], 0
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name == "CUDAExecutionProvider":
            on_cuda += len(part.get_nodes())
        else:
            on_cpu += [(node.op_type, node.name) for node in part.get_nodes()]
    print(f"{graph.name}: {on_cuda} nodes on CUDA, on the CPU {on_cpu}")
    return on_cuda, {op_type for op_type, _ in on_cpu}


def run(engine: EngineLoop, requests: list[SequenceWork]) -> dict[int, Any]:
    """Answers (or failures) of all requests, which join one after the other."""
    answers: dict[int, Any] = {}
    pending = list(requests)
    while pending or engine.has_work:
        if pending:
            engine.submit(pending.pop(0))
        answers |= {event.request_id: event for event in engine.step() if isinstance(event, Done | Failed)}
    return answers


def check_steps(bundle: Bundle) -> None:
    """All captures are made at the start; each step is one graph launch, and no copy is out of order with it."""
    engine = make_loop(bundle, SchedulerConfig(NUM_SLOTS, admit_wait_s=0.0), time.monotonic)
    engine.start()
    started = counts()
    print("start", started)
    assert started.captures == started.launches == len(bundle.variant.steps) * len(row_buckets(NUM_SLOTS))
    rng = random.Random(0)
    for sizes in ([1], [5], [1, 2, 5, 8]):
        options = [DecodeOptions(beam, beam, max_tokens=rng.randint(1, 20)) for beam in rng.choices(sizes, k=12)]
        before = counts()
        sources = [[7] * rng.randint(1, bundle.manifest.limits.max_source_tokens) for _ in options]
        answers = run(engine, [sequence_work(index, *each) for index, each in enumerate(zip(sources, options, strict=True))])
        num_steps = sum(1 for step in engine.stats().steps if step.num_rows)
        assert counts().launches - before.launches == num_steps > 0
        for index, each in enumerate(options):
            assert isinstance(answers[index], Done), answers[index]
            assert answers[index].num_steps == each.max_tokens
            assert len(answers[index].outcome.hypotheses) == each.num_hypotheses
            found = answers[index].outcome.hypotheses[0]
            assert (len(found.tokens), found.finish_reason) == (each.max_tokens, FinishReason.LENGTH) or each.beam_size > 1
    ended = counts()
    print("end", ended)
    assert (ended.captures, ended.allocations) == (started.captures, started.allocations)
    assert (ended.forbidden, ended.out_of_order) == (0, 0)
    if not any(step.gives_attention for step in bundle.variant.steps):
        answers = run(engine, [sequence_work(0, [7, 2], DecodeOptions(attention=AttentionDetail.MEAN))])
        assert answers[0].reason == ExecutionFailed.reason


def check_passes(bundle: Bundle) -> None:
    """Each size and bucket of both graphs is captured at the start; a batch is one launch, and a size that is not known none."""
    runner = make_pass_runner(bundle, 0)
    for _ in runner.starting():
        pass
    started = counts()
    print("start", started)
    is_captured = bundle.key[0] != UNCAPTURED
    assert started.captures == (len(SIZES) * len(row_buckets(4)) * len(bundle.variant.passes) if is_captured else 0)
    for size in SIZES:
        for wants in (False, True):
            for batch in (1, 2, 3, 4):
                before, payloads = counts(), [payload(seed, *size, wants_attention=wants) for seed in range(batch)]
                answers, is_cold = runner.run(runner.key(payloads[0]), payloads)
                assert (len(answers), is_cold) == (batch, False)
                assert answers[0]["classes"].shape == (size[1], size[0])
                assert len(answers[0]) == (4 if wants else 2)
                assert counts().launches - before.launches == is_captured
    warm = counts()
    assert (warm.captures, warm.allocations) == (started.captures, started.allocations)
    for seed in range(3):
        cold = payload(seed, 4 * CELL, 5 * CELL, wants_attention=True)
        answers, is_cold = runner.run(runner.key(cold), [cold])
        assert (answers[0]["unary"].shape, is_cold) == ((20,), True)
    ended = counts()
    print("end", ended)
    assert (ended.captures, ended.launches) == (warm.captures, warm.launches)
    assert (ended.forbidden, ended.out_of_order) == (0, 0)


def check_feeds(bundle: Bundle) -> None:
    """The inputs on the device: those of live rows, and valid padding for the other rows."""
    memory = CudaMemory(bundle, NUM_SLOTS)
    for step in memory.steps:
        binding, layout = memory.bind(step, memory.key(5, 2)), memory.layouts(step, 8, 8)[0]
        for value in binding.feeds(8, 8).values():
            value[:] = 3
        binding.feeds(5, 2)
        binding.inputs.upload()
        block = memory.inputs.numpy().view(np.uint8)[: layout.size].copy()
        for name, found in layout.split(block).items():
            live = step.count_of(name, 5, 2)
            assert len(found) == 8
            assert (found[:live] == 3).all()
            assert (found[live:] == (1 if name == "source_length" else 0)).all()


def synthetic_states() -> list[manifest_pb2.State]:
    """One of each kind: grows in place, is encoded for a row or a request, is written beside, starts at zero."""
    request, row = manifest_pb2.SCOPE_REQUEST, manifest_pb2.SCOPE_HYPOTHESIS
    grows = {"growing_axis": "target", "capacity": 6, "in_place": True}
    reads = {"growing_axis": "source", "capacity": 5, "encode_output": "memory"}
    return [
        manifest_pb2.State(name="cache", scope=row, axes=["row", "2", "target", "3"], step_output="next_cache", **grows),
        manifest_pb2.State(name="memory", scope=request, axes=["request", "source", "4"], **reads),
        manifest_pb2.State(name="hidden", scope=row, axes=["row", "7"], step_output="next_hidden", encode_output="first"),
        manifest_pb2.State(name="context", scope=row, axes=["row", "2"], step_output="next_context"),
        manifest_pb2.State(name="total", scope=request, axes=["request", "3"]),
    ]


def check_state(bundle: Bundle) -> None:
    """Random operations leave the same bytes in the slots on the device as in those on the CPU."""
    session = make_session(bundle.folder / bundle.variant.encode.file, "cuda")
    states, dtypes = synthetic_states(), dict.fromkeys(["cache", "memory", "hidden", "context"], np.dtype(np.float16))
    dtypes["total"] = np.dtype(np.int64)
    host, device = SlotState(states, dtypes, NUM_SLOTS), DeviceState(states, dtypes, NUM_SLOTS, session)
    rng, values = random.Random(0), np.random.default_rng(0)
    encoded = {"memory": fresh(session, values, [4, 5, 4]), "first": fresh(session, values, [4, 7])}
    on_host = {name: tensor.numpy() for name, tensor in encoded.items()}
    for buffer in host.buffers.values():
        for side in ("current", "spare"):
            if (array := getattr(buffer, side)) is not None:
                array[:] = values.integers(0, 100, array.shape)
                write(getattr(device.buffers[buffer.declared.name], side), array)
    for _ in range(400):
        operation = rng.choice([insert, move, copy, copy, flip])
        operation(rng, host, device, on_host, encoded)
        assert host.buffer_parity == device.buffer_parity
        for name, buffer in host.buffers.items():
            found = device.buffers[name].current.numpy()[:NUM_SLOTS]
            np.testing.assert_array_equal(found, buffer.current, err_msg=f"{name} after {operation.__name__}")


def insert(rng: random.Random, host: SlotState, device: DeviceState, on_host: Any, on_device: Any) -> None:
    requests, rows = rng.sample(range(NUM_SLOTS), 4), rng.sample(range(NUM_SLOTS), 4)
    host.insert(requests, rows, on_host)
    device.insert(requests, rows, on_device)


def move(rng: random.Random, host: SlotState, device: DeviceState, *_: Any) -> None:
    source, target = rng.randrange(NUM_SLOTS), rng.randrange(NUM_SLOTS)
    host.move_request(source, target, 6)
    device.move_request(source, target, 6)


def copy(rng: random.Random, host: SlotState, device: DeviceState, *_: Any) -> None:
    rows = rng.sample(range(NUM_SLOTS), NUM_SLOTS)
    count = rng.randint(0, NUM_SLOTS - 1)
    sources, targets = rng.choices(rows[count:], k=count), rows[:count]
    host.copy_rows(sources, targets, 6)
    device.copy_rows(sources, targets, 6)


def flip(_rng: random.Random, host: SlotState, device: DeviceState, *_: Any) -> None:
    host.flip()
    device.flip()


def fresh(session: onnxruntime.InferenceSession, values: np.random.Generator, shape: list[int]) -> DeviceTensor:
    tensor = DeviceTensor(session, shape, np.dtype(np.float16), has_rows=True)
    write(tensor, values.integers(0, 100, shape).astype(np.float16))
    return tensor


def write(tensor: Any, array: Any) -> None:
    for row, value in zip(tensor.rows, array, strict=False):
        row.update_inplace(np.ascontiguousarray(value))


if __name__ == "__main__":
    globals()[f"check_{sys.argv[1]}"](load_bundle(Path(sys.argv[2]), "cuda"))
    assert counts().forbidden == 0
    print("ok")
