# SPDX-License-Identifier: Apache-2.0
"""Five hundred clients that disconnect in mid-stream, two hundred deadlines that pass: all slots are freed, and all are counted."""

from __future__ import annotations

import contextlib
from collections import Counter

import grpc
import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import LONG_TEXT, SENTENCES, Samples, Server, ask, eventually, start_stream, start_unary, texts

NUM_VANISHING, NUM_LATE, AT_ONCE = 500, 200, 25
NUM_BLOCKERS = 40
CANCELLED = "attnserve_requests_cancelled_total"

pytestmark = pytest.mark.load


def settled(server: Server) -> Samples:
    """The metrics once no slot is used and no request waits."""

    def is_empty() -> bool:
        samples = server.scrape()
        return not samples.total("attnserve_slots", state="used") and not samples.total("attnserve_queue_length")

    eventually(is_empty, "slots and queue back to zero", seconds=30)
    return server.scrape()


def given_up(before: Samples, after: Samples) -> dict[str, float]:
    reasons = {s.labels["reason"] for s in after.samples if s.name == CANCELLED}
    return {reason: after.total(CANCELLED, reason=reason) - before.total(CANCELLED, reason=reason) for reason in reasons}


@pytest.mark.parametrize("way", ["the call is cancelled", "the connection is closed"])
def test_clients_that_vanish_in_mid_stream(server: Server, way: str) -> None:
    with server.channel() as channel:
        expected = [texts(ask(channel, text)) for text in SENTENCES[:8]]
    before, num = settled(server), NUM_VANISHING // 2
    for _ in range(num // AT_ONCE):
        with server.channel() as channel:
            streams = [start_stream(channel, LONG_TEXT) for _ in range(AT_ONCE)]
            for stream in streams:
                next(stream)  # so each of them has reached its handler
                if way == "the call is cancelled":
                    stream.cancel()
    after = settled(server)
    ended, decoded = "attnserve_requests_total", "attnserve_decode_duration_seconds_count"
    answered, cancelled = (after.total(ended, code=code) - before.total(ended, code=code) for code in ("OK", "CANCELLED"))
    assert num * 0.95 <= answered + cancelled <= num, "but for calls that were gone before they reached a handler"
    left, finished = given_up(before, after).get("client", 0), after.total(decoded) - before.total(decoded)
    assert left + finished == answered + cancelled, "each was either dropped, or was done when its client left"
    assert left > num * 0.4, "most were done before they vanished"
    with server.channel() as channel:
        assert [texts(ask(channel, text)) for text in SENTENCES[:8]] == expected
    server.assert_unharmed()


def test_deadlines_that_pass(server: Server) -> None:
    before, codes = settled(server), Counter[grpc.StatusCode]()
    with server.channel() as channel, contextlib.ExitStack() as others:
        for _ in range(NUM_BLOCKERS):
            others.callback(start_unary(channel, LONG_TEXT, DecodeOptions(beam_size=8)).cancel)
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") >= 32, "a full batch")
        for start in range(0, NUM_LATE, AT_ONCE):
            calls = []
            for number in range(start, start + AT_ONCE):
                begin = (start_unary, start_stream)[number % 2]
                calls.append(begin(channel, LONG_TEXT, timeout=0.2 + 0.2 * (number % 7) / 7))
            for call in calls:
                error = call.exception(timeout=60)
                assert isinstance(error, grpc.RpcError)
                codes[error.code()] += 1
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED: NUM_LATE}
    after, ended = settled(server), "attnserve_requests_total"
    seen, left = (after.total(ended, code=code) - before.total(ended, code=code) for code in ("DEADLINE_EXCEEDED", "CANCELLED"))
    assert NUM_LATE / 2 <= seen <= NUM_LATE, "most by the server's clock, too"
    assert NUM_LATE * 0.95 <= seen + left <= NUM_LATE + NUM_BLOCKERS, "except calls that were over before they reached a handler"
    # What is refused at once, because it cannot be done in time, is counted with the refusals.
    refused = after.total("attnserve_requests_rejected_total") - before.total("attnserve_requests_rejected_total")
    reasons = given_up(before, after)
    assert reasons.get("deadline", 0) + refused == seen
    assert reasons.get("client", 0) <= left, "the client's clock may run out first: then it leaves before the server's deadline"
    server.assert_unharmed()
