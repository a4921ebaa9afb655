# SPDX-License-Identifier: Apache-2.0
"""Fields that are encoded without messages are those that protobuf writes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from attnserve.v1 import segmentation_pb2
from attnserve_server.transport.rpc.v1 import segmentation
from attnserve_server.transport.rpc.v1.packed import delimited, packed_integers
from tests.fakes.pass_models import PassFront
from tests.unit.server_shell.conftest import ShellFactory
from tests.unit.server_shell.test_segmentation import RUNS, picture, segment

EDGES = [0, 1, *(2 ** (7 * size) + off for size in range(1, 5) for off in (-1, 0, 1)), 2**32 - 1]


@pytest.mark.parametrize("values", [[], [0], [127], [128], [255] * 3, EDGES, EDGES[::-1], [2**32 - 1]])
@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_packed_integers_are_those_of_protobuf(values: list[int], dtype: Any) -> None:
    encoded = packed_integers(2, np.array(values, dtype))
    assert list(segmentation_pb2.ClassRuns.FromString(encoded).lengths) == values
    if values:
        assert encoded == segmentation_pb2.ClassRuns(lengths=values).SerializeToString()


def test_many_packed_integers_are_those_of_protobuf() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 ** rng.integers(1, 33, 20_000), dtype=np.int64)
    classes = rng.integers(0, 256, 20_000, np.uint8)
    expected = segmentation_pb2.ClassRuns(classes=classes.tolist(), lengths=values.tolist())
    assert packed_integers(1, classes) + packed_integers(2, values) == expected.SerializeToString()


def test_message_within_a_message_is_that_of_protobuf() -> None:
    runs = segmentation_pb2.ClassRuns(classes=[1] * 300, lengths=[2] * 300)
    number = segmentation_pb2.ClassMap.RUNS_FIELD_NUMBER
    assert delimited(number, runs.SerializeToString()) == segmentation_pb2.ClassMap(runs=runs).SerializeToString()


async def test_answer_with_runs_is_encoded_on_a_thread(make_shell: ShellFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[threading.Thread, type]] = []
    original = segmentation.segment_response

    def recorded(*args: Any) -> Any:
        made = original(*args)
        seen.append((threading.current_thread(), type(made)))
        return made

    monkeypatch.setattr(segmentation, "segment_response", recorded)
    shell = await make_shell(PassFront())
    answer = await segment(shell, picture(), format=RUNS)
    assert list(answer.map.runs.lengths) == [120] * 4 * 360
    ((thread, kind),) = seen
    assert thread is not threading.main_thread()
    assert kind is bytes
