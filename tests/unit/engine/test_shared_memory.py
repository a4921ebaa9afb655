# SPDX-License-Identifier: Apache-2.0
"""Large tensors pass between front and worker in shared memory, and no block is used twice or lost."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from attnserve_server.engine.link.messages import ENCODER, Progress, from_worker, to_worker
from attnserve_server.engine.link.shared import LEAST, FrontMemory, WorkerMemory
from attnserve_server.kinds import ITERATIVE, SINGLE_PASS
from attnserve_server.passes import PassOutcome, PassPayload, PassTensor
from attnserve_server.request import DecodeOptions, Done, Failed, ModelKey, SequencePayload, Terms, Work
from attnserve_server.stats import EngineStats

MODEL, OTHER = ModelKey("squares", "1"), ModelKey("cubes", "1")
KINDS = (ITERATIVE, SINGLE_PASS)
STATS = EngineStats("squares", "1", [], 0, 0, 0, 0.0, 1.0)


def work(request_id: int, data: bytes, model: ModelKey = MODEL) -> Work[PassPayload]:
    payload = PassPayload({"image": PassTensor((len(data),), data), "size": PassTensor((2,), b"ab")})
    return Work(request_id, model, Terms(), 1, 1.0, payload)


def done(request_id: int, data: bytes) -> Done[PassOutcome]:
    return Done(request_id, PassOutcome({"classes": PassTensor((len(data),), data)}, 3), 1.0, 2.0, 3.0, 4.0, 1)


class Link:
    """Both ends of the link without the socket."""

    def __init__(self, size: int) -> None:
        self.front = FrontMemory(size)
        self.worker = WorkerMemory(os.dup(self.front.descriptor))
        self.to_worker, self.from_worker = to_worker(KINDS), from_worker(KINDS)
        self.num_bytes = 0

    def down(self, sent: Work[PassPayload]) -> Work[PassPayload]:
        data = ENCODER.encode(self.front.share(sent))
        self.num_bytes = len(data)
        message = self.to_worker.decode(data)
        assert isinstance(message, Work)
        return self.worker.received(message)

    def up(self, *events: object) -> list[object]:
        data = ENCODER.encode(Progress(self.worker.sent(events), STATS))
        self.num_bytes = len(data)
        message = self.from_worker.decode(data)
        assert isinstance(message, Progress)
        return self.front.receive(message.events)


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link(1 << 20)
    yield link
    link.front.close_descriptor()


def test_large_request_and_answer_do_not_pass_through_the_socket(link: Link) -> None:
    data, answer = os.urandom(LEAST), os.urandom(LEAST)
    received = link.down(work(7, data))
    assert link.num_bytes < 200
    assert {name: bytes(each.data) for name, each in received.payload.inputs.items()} == {"image": data, "size": b"ab"}
    assert received.block is None
    assert link.up(done(7, answer)) == [done(7, answer)]
    assert link.num_bytes < 200
    assert link.front.num_blocks == 0


def test_small_request_passes_through_the_socket(link: Link) -> None:
    sent = work(7, bytes(LEAST - 3))
    assert link.down(sent) == sent
    assert link.front.num_blocks == 0


def test_text_passes_through_the_socket(link: Link) -> None:
    sent = Work(7, MODEL, Terms(), 1, 1.0, SequencePayload([1] * LEAST, DecodeOptions()))
    assert link.front.share(sent) is sent


def test_answer_that_is_larger_than_its_block_passes_through_the_socket(link: Link) -> None:
    link.down(work(7, os.urandom(LEAST)))
    answer = done(7, os.urandom(2 * LEAST))
    assert link.up(answer) == [answer]
    assert link.front.num_blocks == 0


def test_failed_request_frees_its_block(link: Link) -> None:
    link.down(work(7, os.urandom(LEAST)))
    failed = Failed(7, "CANCELLED", "")
    assert link.up(failed) == [failed]
    assert link.front.num_blocks == 0


def test_full_memory_leaves_the_rest_to_the_socket(link: Link) -> None:
    data = [os.urandom(300_000) for _ in range(4)]
    received = [link.down(work(number, each)) for number, each in enumerate(data)]
    assert link.front.num_blocks == 3
    assert [bytes(each.payload.inputs["image"].data) for each in received] == data


def test_requests_of_an_unloaded_model_free_their_blocks(link: Link) -> None:
    link.down(work(1, os.urandom(LEAST)))
    link.down(work(2, os.urandom(LEAST), OTHER))
    dropped = link.worker.dropped(MODEL)
    assert dropped == [1]
    link.front.free(dropped)
    assert link.front.num_blocks == 1
    assert link.worker.dropped(MODEL) == []


def test_no_block_is_used_twice_at_a_time(link: Link) -> None:
    """Random requests and answers: what was written is what is read, on both sides."""
    rng = random.Random(4)
    under_way: dict[int, tuple[bytes, Work[PassPayload]]] = {}
    for number in range(2000):
        if under_way and rng.random() < 0.5:
            request_id = rng.choice(list(under_way))
            data, received = under_way.pop(request_id)
            assert bytes(received.payload.inputs["image"].data) == data
            answer = rng.randbytes(rng.randrange(1, 3 * LEAST))
            assert link.up(done(request_id, answer)) == [done(request_id, answer)]
        else:
            data = rng.randbytes(rng.randrange(LEAST // 2, 2 * LEAST))
            under_way[number] = data, link.down(work(number, data))
    assert link.front.num_blocks <= len(under_way)


def test_block_that_is_freed_too_early_is_seen(link: Link) -> None:
    data = os.urandom(LEAST)
    first = link.down(work(1, data))
    link.front.free([1])  # planted: the worker still reads it
    link.down(work(2, os.urandom(LEAST)))
    assert bytes(first.payload.inputs["image"].data) != data
