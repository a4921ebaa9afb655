# SPDX-License-Identifier: Apache-2.0
"""The sockets between front and worker: whole messages of any size, in any fragments; and the end of either side."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from attnserve_server.engine.link.channel import FrontEnd, WorkerEnd

pytestmark = pytest.mark.every_loop

SIZES = (0, 1, 5, 70_000, 3_000_000, 4)


async def pair() -> tuple[FrontEnd, WorkerEnd, asyncio.Queue[bytes]]:
    came: asyncio.Queue[bytes] = asyncio.Queue()
    front, theirs = await FrontEnd.open(came.put_nowait)
    return front, WorkerEnd(theirs.detach()), came


def messages() -> list[bytes]:
    return [bytes([index]) * size for index, size in enumerate(SIZES)]


async def test_messages_of_any_size_arrive_whole_and_in_order_both_ways() -> None:
    front, worker, came = await pair()

    def echo() -> None:
        left = len(SIZES)
        while left:
            for message in worker.receive(None):
                worker.send(message)
                left -= 1
        worker.close()

    thread = threading.Thread(target=echo)
    thread.start()
    for message in messages():
        front.send(message)
    assert [await asyncio.wait_for(came.get(), 20) for _ in SIZES] == messages()
    thread.join()
    front.close()


async def test_a_message_that_comes_in_bits_is_one_message() -> None:
    ours, theirs = socket.socketpair()
    worker = WorkerEnd(theirs.detach())
    assert worker.receive() == []
    for byte in b"\x03\0\0\0abc\x02\0\0":
        ours.send(bytes([byte]))
        found = worker.receive()
        assert found == ([b"abc"] if byte == ord("c") else [])
    ours.send(b"\0de\x01\0\0\0f")
    assert worker.receive(None) == [b"de", b"f"]
    ours.close()
    worker.close()


async def test_wait_ends_with_its_time_or_with_a_message() -> None:
    ours, theirs = socket.socketpair()
    worker = WorkerEnd(theirs.detach())
    began = time.monotonic()
    assert worker.receive(0.03) == []
    assert 0.03 <= time.monotonic() - began < 20
    sending = threading.Timer(0.02, ours.send, [b"\x01\0\0\0a"])
    sending.start()
    began = time.monotonic()
    assert worker.receive(30) == [b"a"]
    assert time.monotonic() - began < 15
    sending.join()
    ours.close()
    with pytest.raises(EOFError, match="front"):
        worker.receive(30)
    worker.close()


async def test_a_worker_whose_front_is_gone_is_told() -> None:
    front, worker, _ = await pair()
    front.close()
    await asyncio.sleep(0)
    with pytest.raises(EOFError, match="front"):
        worker.receive(None)
    with pytest.raises(OSError, match="pipe"):
        worker.send(b"x")
    worker.close()


async def test_what_is_sent_to_a_worker_that_is_gone_is_lost() -> None:
    front, worker, came = await pair()
    worker.close()
    front.send(b"x")  # the front has not read it yet
    for _ in range(3):  # the end of the stream is there already: the loop's next round reads it
        await asyncio.sleep(0)
        front.send(b"x")
    assert came.empty()
