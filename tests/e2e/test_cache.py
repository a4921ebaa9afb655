# SPDX-License-Identifier: Apache-2.0
"""The cache of answers, seen by clients: the same answers, at once, and never more memory than its limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from attnserve.v1 import decoding_pb2
from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import (
    LONG_TEXT,
    SENTENCES,
    STREAM,
    Server,
    ask,
    eventually,
    serve,
    start_stream,
    start_unary,
    texts,
    wait_for_arrival,
)
from tests.stopping import stopped

BEAM = DecodeOptions(beam_size=4, num_hypotheses=4, return_attention=decoding_pb2.ATTENTION_DETAIL_MEAN)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("cached"), "--workers", "1", "--slots", "8", "--cache-bytes", "4000000") as running:
        yield running


def counts(server: Server) -> dict[str, float]:
    samples = server.scrape()
    return {each: samples.total("attnserve_cache_requests_total", result=each) for each in ("hit", "miss", "coalesced")}


def grown(server: Server, before: dict[str, float]) -> tuple[float, float, float]:
    after = counts(server)
    hits, misses, coalesced = (after[each] - before[each] for each in ("hit", "miss", "coalesced"))
    return hits, misses, coalesced


@pytest.mark.parametrize("kind", ["unary", STREAM])
@pytest.mark.parametrize("options", [None, BEAM])
def test_hit_is_the_same_answer(server: Server, channel: grpc.Channel, kind: str, options: DecodeOptions | None) -> None:
    text = SENTENCES[["unary", STREAM].index(kind) + (0 if options is None else 2)]
    before, steps = counts(server), server.scrape().total("attnserve_batch_rows_count")
    first = ask(channel, text, options, kind=kind)
    decoded = server.scrape().total("attnserve_batch_rows_count")
    assert decoded > steps
    again = ask(channel, text, options, kind=kind)
    other = ask(channel, text, options)
    assert list(first.hypotheses) == list(again.hypotheses) == list(other.hypotheses)
    assert first.source_pieces == again.source_pieces
    assert grown(server, before) == (2, 1, 0)
    assert server.scrape().total("attnserve_batch_rows_count") == decoded, "no step was run"
    times = again.timings
    assert (times.encode_seconds, times.decode_seconds) == (0, 0)
    assert 0 <= times.queue_seconds <= times.total_seconds


def test_stream_of_a_hit_is_one_part(channel: grpc.Channel) -> None:
    whole = ask(channel, SENTENCES[5])
    delta, result = list(start_stream(channel, SENTENCES[5]))
    assert delta.delta.text == whole.hypotheses[0].text
    assert list(delta.delta.pieces) == list(whole.hypotheses[0].pieces)
    assert texts(result.result) == texts(whole)


@pytest.mark.load
def test_equal_requests_at_once_share_their_work(server: Server, channel: grpc.Channel) -> None:
    before = counts(server)
    streams = [start_stream(channel, LONG_TEXT)]
    next(streams[0])
    with stopped(*server.workers.values()):  # so that the first is not answered before the others are there
        streams += [start_stream(channel, LONG_TEXT) for _ in range(5)]
        futures = [start_unary(channel, LONG_TEXT) for _ in range(10)]
        wait_for_arrival(channel)
        streams.pop(1).cancel()
    answers = [texts(future.result()) for future in futures]
    results = [list(stream)[-1].result for stream in streams]
    assert len({tuple(answer) for answer in [*answers, *map(texts, results)]}) == 1
    hits, misses, coalesced = grown(server, before)
    assert misses == 1
    assert hits + coalesced >= 14
    assert coalesced > 0
    for future in futures:
        times = future.result().timings
        assert min(times.queue_seconds, times.encode_seconds, times.decode_seconds) >= 0
        assert times.queue_seconds + times.encode_seconds + times.decode_seconds <= times.total_seconds + 1e-6
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")


def test_seeded_samples_are_kept_and_others_are_not(server: Server, channel: grpc.Channel) -> None:
    def sample(**options: int) -> list[str]:
        sampling = decoding_pb2.SamplingOptions(**options)
        return texts(ask(channel, SENTENCES[6], DecodeOptions(sampling=sampling)))

    before = counts(server)
    assert sample(seed=5) == sample(seed=5)
    assert grown(server, before) == (1, 1, 0)
    before = counts(server)
    sample()
    sample()
    assert grown(server, before) == (0, 0, 0), "the server drew their seeds: they can never be asked for again"


def test_cache_is_bounded(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1", "--slots", "32", "--cache-bytes", "8000") as server, server.channel() as channel:
        ask(channel, SENTENCES[0])
        for future in [start_unary(channel, text) for text in SENTENCES[1:60]]:
            future.result()
        samples = server.scrape()
        assert 0 < samples.total("attnserve_cache_bytes") <= 8000
        assert 1 < samples.total("attnserve_cache_entries") < 60
        before = counts(server)
        ask(channel, SENTENCES[0])
        ask(channel, SENTENCES[0])
        assert grown(server, before) == (1, 1, 0), "the oldest was dropped, the newest is there"
        large = DecodeOptions(return_attention=decoding_pb2.ATTENTION_DETAIL_ALL)
        entries = server.scrape().total("attnserve_cache_entries")
        ask(channel, LONG_TEXT, large)
        assert server.scrape().total("attnserve_cache_entries") == entries, "larger than an eighth of the cache"


@pytest.mark.load
def test_full_queue_does_not_refuse_what_is_known(tmp_path: Path) -> None:
    flags = ("--workers", "1", "--slots", "2", "--max-beam-size", "2", "--queue-limit", "4", "--cache-bytes", "1000000")
    with serve(tmp_path, *flags) as server, server.channel() as channel:
        known = texts(ask(channel, SENTENCES[0]))
        with stopped(*server.workers.values()):  # so that the queue stays full
            futures = [start_unary(channel, LONG_TEXT + "red , " * number) for number in range(20)]
            eventually(lambda: server.scrape().total("attnserve_requests_rejected_total") > 5, "a full queue")
            assert texts(ask(channel, SENTENCES[0])) == known
            assert [future for future in futures if not future.done()], "nothing waited"
        for future in futures:
            future.cancel()
