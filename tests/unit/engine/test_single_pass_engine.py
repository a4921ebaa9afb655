# SPDX-License-Identifier: Apache-2.0
"""The engine of single-pass models over a small ONNX model on the CPU: batches, answers, failures, and memory."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.engine.worker.single_pass.engine import PassEngine
from attnserve_server.errors import Cancelled, DeadlineExceeded, ExecutionFailed
from attnserve_server.execution.factory import make_pass_runner
from attnserve_server.execution.pass_host import HostPasses
from attnserve_server.passes import PassPayload, PassTensor
from attnserve_server.request import Done, Failed, ModelKey, Terms, Work
from tests.fakes.clock import Clock
from tests.fakes.passes import ATTENTION, CELL, MODEL_ID, PLAIN, SIZES, inputs_of, pass_manifest, payload, write_bundle

KEY = ModelKey(MODEL_ID, "1")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def started(bundle: Bundle, clock: Callable[[], float], window_s: float = 0.0, max_batch: int = 0) -> PassEngine:
    engine = PassEngine(make_pass_runner(bundle, max_batch), window_s, clock)
    for _ in engine.starting():
        pass
    return engine


def work(number: int, content: PassPayload, **terms: Any) -> Work[PassPayload]:
    return Work(number, KEY, Terms(**terms), 1, float(content.num_source), content, f"client-{number}")


def run(engine: PassEngine, *contents: PassPayload) -> dict[int, Any]:
    """All requests at once: their events."""
    for number, each in enumerate(contents):
        engine.submit(work(number, each))
    events: dict[int, Any] = {}
    while engine.has_work:
        assert engine.due_in_s == 0
        events |= {event.request_id: event for event in engine.step()}
    return events


def arrays(done: Done[Any]) -> dict[str, Any]:
    types = {"classes": np.uint8, "confidence": np.uint8, "unary": np.float32, "pairwise": np.float32}
    return {name: np.frombuffer(each.data, types[name]).reshape(each.shape) for name, each in done.outcome.outputs.items()}


@pytest.mark.parametrize("wants_attention", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_answers_are_those_of_the_graph(bundle: Bundle, clock: Clock, size: tuple[int, int], wants_attention: bool) -> None:
    done = run(started(bundle, clock), payload(7, *size, wants_attention=wants_attention))[0]
    session = onnxruntime.InferenceSession(bundle.folder / (ATTENTION if wants_attention else PLAIN))
    feeds = {each.name: inputs_of(7, *size)[each.name][None] for each in session.get_inputs()}
    expected = dict(zip((each.name for each in session.get_outputs()), session.run(None, feeds), strict=True))
    found = arrays(done)
    assert found.keys() == expected.keys() == ({"classes", "confidence"} | ({"unary", "pairwise"} if wants_attention else set()))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value[0])
    assert len(np.unique(found["classes"])) > 1, "the model tells pixels apart"
    if wants_attention:
        np.testing.assert_allclose(found["pairwise"].sum(-1), 1, rtol=1e-6)
        assert found["unary"].shape == (size[0] * size[1] // CELL**2,)


def test_answer_does_not_depend_on_the_other_requests_of_its_batch(bundle: Bundle, clock: Clock) -> None:
    engine = started(bundle, clock)
    alone = [arrays(run(engine, payload(seed, wants_attention=True))[0]) for seed in range(4)]
    together = run(engine, *(payload(seed, wants_attention=True) for seed in range(4)))
    assert [together[index].outcome.batch_size for index in range(4)] == [4] * 4
    for index, expected in enumerate(alone):
        for name, value in arrays(together[index]).items():
            np.testing.assert_array_equal(value, expected[name])


def test_batches_are_of_equal_shapes_and_wishes_and_of_the_largest_size(bundle: Bundle, clock: Clock) -> None:
    engine = started(bundle, clock)
    wide, high, maps = payload(1), payload(2, 8, 16), payload(3, wants_attention=True)
    events = run(engine, wide, high, wide, maps, wide, wide, wide, maps)
    assert [events[number].outcome.batch_size for number in range(8)] == [4, 1, 4, 2, 4, 4, 1, 2]
    report = engine.stats()
    assert [len(each.window_s) for each in report.runs] == [4, 1, 2, 1], "the batch with the oldest request first"
    assert (report.steps, report.num_slots, report.num_waiting) == ([], 0, 0)
    assert engine.stats().runs == []


def test_times_of_an_answer(bundle: Bundle) -> None:
    clock = Clock()

    def ticking() -> float:
        clock.now += 0.001
        return clock.now

    engine = started(bundle, ticking, window_s=0.01)
    engine.submit(work(0, payload(0)))
    queued = clock.now
    clock.now += 0.02
    (done,) = engine.step()
    assert done.admitted_at > queued + 0.02
    assert done.finished_at == done.first_token_at == pytest.approx(done.admitted_at + done.encode_s)
    assert (done.num_steps, done.encode_s > 0) == (1, True)
    report = engine.stats()
    assert report.runs[0].run_s == done.encode_s
    assert report.runs[0].window_s == [pytest.approx(done.admitted_at - queued)]
    assert report.busy_s == done.encode_s


def test_cancelled_and_late_requests_are_ended_before_their_batch_runs(bundle: Bundle, clock: Clock) -> None:
    engine = started(bundle, clock, window_s=1.0)
    engine.submit(work(1, payload(1)))
    engine.submit(work(2, payload(2), deadline=clock.now + 0.25))
    engine.submit(work(3, payload(3)))
    engine.cancel(1, "client")
    assert engine.due_in_s == 0
    assert [(event.request_id, event.reason) for event in engine.step()] == [(1, Cancelled.reason)]
    assert engine.due_in_s == pytest.approx(0.25)
    clock.now += 0.3
    assert [(event.request_id, event.reason) for event in engine.step()] == [(2, DeadlineExceeded.reason)]
    engine.cancel(2, "client")
    clock.now += 0.8
    (done,) = engine.step()
    assert (done.request_id, done.outcome.batch_size) == (3, 1)
    assert not engine.has_work
    assert engine.stats().cancelled == {"client": 1, "deadline": 1}


def test_failed_run_fails_its_batch_and_no_other(bundle: Bundle, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    engine = started(bundle, clock)
    outside = payload(1, wants_attention=True)
    outside.inputs["query"] = PassTensor((2,), np.array([0, 10_000], np.int64).tobytes())
    events = run(engine, outside, payload(2, wants_attention=True), payload(3))
    assert [type(events[number]) for number in range(3)] == [Failed, Failed, Done]
    assert {events[number].reason for number in range(2)} == {ExecutionFailed.reason}
    assert events[0].message == "the model could not be run"
    assert [record.message.partition("INTERNAL")[2][:11] for record in caplog.records] == [" (one of 2)"] * 2
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]
    assert [len(each.window_s) for each in engine.stats().runs] == [1]
    assert isinstance(run(engine, payload(2, wants_attention=True))[0], Done), "the engine goes on"


def cut(tensor: PassTensor) -> PassTensor:
    return PassTensor(tensor.shape, tensor.data[:-1])


UNFIT: dict[str, tuple[str, Callable[[PassTensor], PassTensor | None], str]] = {
    "missing": ("size", lambda _: None, "no input size"),
    "missing for attention": ("query", lambda _: None, "no input query"),
    "cut": ("image", cut, "input image of shape (8, 16, 3) has 383 bytes"),
    "rank": ("image", lambda each: PassTensor(each.shape[:2], each.data), "input image has the shape (8, 16), the graph's is (height, width, 3)"),
    "channels": ("image", lambda each: PassTensor((8, 12, 4), each.data), "input image has the shape (8, 12, 4)"),
    "nothing": ("image", lambda _: PassTensor((0, 16, 3), b""), "input image has the shape (0, 16, 3)"),
    "negative": ("image", lambda _: PassTensor((-1, 16, 3), b""), "input image has the shape (-1, 16, 3)"),
    "fixed axis": ("query", lambda each: PassTensor((1,), each.data[:8]), "input query has the shape (1,), the graph's is (2)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", UNFIT)
def test_inputs_that_do_not_fit_fail_their_request_alone(
    bundle: Bundle, clock: Clock, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, changed, problem = UNFIT[fault]
    content = payload(1, wants_attention=True)
    tensor = changed(content.inputs.pop(name))
    if tensor is not None:
        content.inputs[name] = tensor
    events = run(started(bundle, clock), content, payload(2, wants_attention=True))
    assert (type(events[0]), type(events[1])) == (Failed, Done)
    assert events[0].reason == ExecutionFailed.reason
    assert problem in caplog.text


def test_attention_that_no_graph_gives_fails_the_request(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    manifest = pass_manifest()
    manifest["variants"][0]["passes"].pop()
    del manifest["single_pass"]["attention"]
    events = run(started(load_bundle(write_bundle(tmp_path, manifest)), clock), payload(1, wants_attention=True), payload(1))
    assert (type(events[0]), type(events[1])) == (Failed, Done)
    assert "no graph gives attention" in caplog.text


def test_one_graph_that_gives_attention_answers_both_wishes(tmp_path: Path, clock: Clock) -> None:
    manifest = pass_manifest()
    del manifest["variants"][0]["passes"][0]
    engine = started(load_bundle(write_bundle(tmp_path, manifest)), clock)
    plain = payload(1, wants_attention=True)
    plain.wants_attention = False
    events = run(engine, plain, payload(1, wants_attention=True))
    assert [set(events[number].outcome.outputs) for number in range(2)] == [
        {"classes", "confidence"},
        {"classes", "confidence", "unary", "pairwise"},
    ]


def test_graph_without_an_entry_for_each_request_fails_the_batch(
    bundle: Bundle, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = started(bundle, clock)
    call = engine._runner._memory.call  # noqa: SLF001  a graph that breaks its declaration is planted

    def short(*args: Any) -> Any:
        made = call(*args)
        run_all = made.run
        made.run = lambda count, names: {name: value[:-1] for name, value in run_all(count, names).items()}
        return made

    engine._runner._memory.call = short  # type: ignore[method-assign]  # noqa: SLF001
    assert isinstance(run(engine, payload(1), payload(2))[0], Failed)
    assert "output classes has 1 entries for 2 requests" in caplog.text


def test_shapes_that_the_warm_up_did_not_run_are_counted(bundle: Bundle, clock: Clock) -> None:
    engine = started(bundle, clock)
    run(engine, *(payload(seed, *size, wants_attention=wants) for size in SIZES for wants in (False, True) for seed in range(5)))
    assert [each.is_cold for each in engine.stats().runs] == [False] * 12, "all sizes, of one and of four requests"
    assert isinstance(run(engine, payload(1, 24, 24))[0], Done)
    assert [each.is_cold for each in engine.stats().runs] == [True]


def test_axes_whose_sizes_are_not_declared_are_not_warmed_up(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = pass_manifest()
    manifest["variants"][0]["passes"][1]["graph"]["inputs"][2]["axes"][1] = "query"
    with caplog.at_level("INFO"):
        engine = started(load_bundle(write_bundle(tmp_path, manifest)), clock)
    assert f"{ATTENTION} is not warmed up: the sizes of its inputs are not declared" in caplog.messages
    run(engine, payload(1), payload(1, wants_attention=True))
    assert [each.is_cold for each in engine.stats().runs] == [False, True]


def resident_mib() -> float:
    """Memory in use, without what the allocator keeps and what earlier tests have left: a growth could vanish in either."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth_mib(engine: PassEngine) -> float:
    """Growth of the memory over the last 900 of a thousand random sizes."""
    rng = np.random.default_rng(0)

    def runs(number: int) -> None:
        for seed in range(number):
            width, height = (int(CELL * each) for each in rng.integers(2, 60, 2))
            assert isinstance(run(engine, payload(seed, width, height, wants_attention=bool(seed % 2)))[0], Done)

    runs(100)
    before = resident_mib()
    runs(900)
    return resident_mib() - before


def test_memory_is_flat_over_a_thousand_sizes(bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = started(bundle, clock)
    assert growth_mib(engine) < 16
    assert sum(each.is_cold for each in engine.stats().runs) > 900
    kept, call = [], HostPasses.call

    def keeping(memory: HostPasses, *args: Any) -> Any:
        kept.extend(call(memory, *args) for _ in range(3))
        return kept[-1]

    monkeypatch.setattr(HostPasses, "call", keeping)
    assert growth_mib(started(bundle, clock)) > 16, "buffers that are kept for each size are seen"


@pytest.mark.parametrize(("most", "batches"), [(1, [1]), (2, [2, 1]), (20, [20, 1])])
def test_batches_of_the_warm_up_begin_with_the_largest(bundle: Bundle, most: int, batches: list[int]) -> None:
    assert HostPasses(bundle).batches(most) == batches


def test_payload_and_outcome_survive_the_link() -> None:
    content = payload(1, wants_attention=True)
    decoder = msgspec.msgpack.Decoder(PassPayload)
    assert decoder.decode(msgspec.msgpack.encode(content)) == content
