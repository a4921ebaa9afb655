# SPDX-License-Identifier: Apache-2.0
"""The operations on slots."""

from __future__ import annotations

import numpy as np
import pytest

from attnserve.v1 import manifest_pb2
from attnserve_server.execution.slot_state import SlotState

ROW, REQUEST = manifest_pb2.SCOPE_HYPOTHESIS, manifest_pb2.SCOPE_REQUEST
FLOAT32 = np.dtype(np.float32)


def make_states() -> list[manifest_pb2.State]:
    state = manifest_pb2.State
    return [
        state(name="cache", scope=ROW, axes=["row", "2", "target", "3"], step_output="o1", in_place=True, growing_axis="target", capacity=5),
        state(name="second", scope=ROW, axes=["row", "2", "target", "3"], step_output="o5", in_place=True, growing_axis="target", capacity=5),
        state(name="beside", scope=ROW, axes=["row", "target", "3"], step_output="o2", growing_axis="target", capacity=5),
        state(name="hidden", scope=ROW, axes=["row", "4"], step_output="o3", encode_output="last"),
        state(name="zeros", scope=ROW, axes=["row", "2"], step_output="o4"),
        state(name="memory", scope=REQUEST, axes=["request", "2", "source", "3"], encode_output="memory", growing_axis="source", capacity=6),
        state(name="constant", scope=REQUEST, axes=["request", "3"], encode_output="constant"),
    ]  # fmt: skip


@pytest.fixture
def slots() -> SlotState:
    states = make_states()
    slots = SlotState(states, {state.name: FLOAT32 for state in states}, 4)
    for offset, buffer in enumerate(slots.buffers.values()):
        buffer.current[...] = np.arange(buffer.current.size).reshape(buffer.current.shape) + 1000 * offset
    return slots


def values(slots: SlotState) -> dict[str, np.ndarray]:
    return {name: buffer.current.copy() for name, buffer in slots.buffers.items()}


def test_shapes(slots: SlotState) -> None:
    shapes = {name: buffer.current.shape for name, buffer in slots.buffers.items()}
    assert shapes == {
        "cache": (4, 2, 5, 3),
        "second": (4, 2, 5, 3),
        "beside": (4, 5, 3),
        "hidden": (4, 4),
        "zeros": (4, 2),
        "memory": (4, 2, 6, 3),
        "constant": (4, 3),
    }
    assert {name for name, buffer in slots.buffers.items() if buffer.spare is not None} == {"beside", "hidden", "zeros"}


def test_insert(slots: SlotState) -> None:
    before = values(slots)
    rng = np.random.default_rng(0)
    encoded = {
        "memory": rng.random((3, 2, 4, 3), np.float32),
        "last": rng.random((3, 4), np.float32),
        "constant": rng.random((3, 3), np.float32),
    }
    slots.insert([1, 3, 0], [2, 0, 1], encoded)
    after = values(slots)
    for index, (request, row) in enumerate(((1, 2), (3, 0), (0, 1))):
        assert np.array_equal(after["memory"][request, :, :4], encoded["memory"][index])
        assert np.array_equal(after["memory"][request, :, 4:], before["memory"][request, :, 4:])
        assert np.array_equal(after["constant"][request], encoded["constant"][index])
        assert np.array_equal(after["hidden"][row], encoded["last"][index])
        assert not after["zeros"][row].any()
    for name, slot in (("memory", 2), ("constant", 2), ("hidden", 3), ("zeros", 3)):
        assert np.array_equal(after[name][slot], before[name][slot])
    for name in ("cache", "second", "beside"):
        assert np.array_equal(after[name], before[name])


def test_move_request(slots: SlotState) -> None:
    before = values(slots)
    slots.move_request(3, 0, 4)
    after = values(slots)
    assert np.array_equal(after["memory"][0, :, :4], before["memory"][3, :, :4])
    assert np.array_equal(after["memory"][0, :, 4:], before["memory"][0, :, 4:])
    assert np.array_equal(after["constant"][0], before["constant"][3])
    for name in ("memory", "constant"):
        assert np.array_equal(after[name][1:], before[name][1:])
    for name in ("cache", "second", "beside", "hidden", "zeros"):
        assert np.array_equal(after[name], before[name])


def test_copy_rows(slots: SlotState) -> None:
    before = values(slots)
    slots.copy_rows([1, 1], [0, 3], 2)
    after = values(slots)
    for name in ("hidden", "zeros"):
        assert np.array_equal(after[name], before[name][[1, 1, 2, 1]])
    for name in ("cache", "second"):
        assert np.array_equal(after[name][:, :, :2], before[name][[1, 1, 2, 1]][:, :, :2])
        assert np.array_equal(after[name][:, :, 2:], before[name][:, :, 2:])
    assert np.array_equal(after["beside"][:, :2], before["beside"][[1, 1, 2, 1]][:, :2])
    for name in ("memory", "constant"):
        assert np.array_equal(after[name], before[name])


def test_copy_of_nothing(slots: SlotState) -> None:
    before = values(slots)
    slots.copy_rows([], [], 3)
    slots.copy_rows([0], [1], 0)
    after = values(slots)
    assert np.array_equal(after["cache"], before["cache"])
    assert np.array_equal(after["hidden"][1], before["hidden"][0])


def test_flip_swaps_what_is_written_beside(slots: SlotState) -> None:
    buffers = slots.buffers
    places = {name: (buffer.current, buffer.spare) for name, buffer in buffers.items()}
    slots.flip()
    for name, (current, spare) in places.items():
        assert buffers[name].current is (current if spare is None else spare)
        assert buffers[name].spare is (None if spare is None else current)
    slots.flip()
    assert all(buffers[name].current is current for name, (current, _) in places.items())
