# SPDX-License-Identifier: Apache-2.0
"""Messages between front and workers: each is the same after encoding and decoding, for one kind of engine and for several."""

from __future__ import annotations

import gc
import string
from typing import Any

import msgspec
import pytest

from attnserve_server.config import EngineConfig
from attnserve_server.engine.link.messages import (
    ENCODER,
    Broken,
    Cancel,
    Configure,
    Hello,
    Load,
    Loading,
    Progress,
    Ready,
    Stop,
    Unload,
    from_worker,
    to_worker,
)
from attnserve_server.kinds import ITERATIVE, Kind
from attnserve_server.request import (
    AttentionDetail,
    AttentionWeights,
    DecodeOptions,
    Done,
    Failed,
    FinishReason,
    Hypothesis,
    ImageSource,
    ModelKey,
    Sampling,
    SequenceOutcome,
    SequencePayload,
    Terms,
    TokensProduced,
    Work,
    sequence_work,
)
from attnserve_server.stats import EngineStats, StepStats
from tests.foreign.letters import KIND, Counted, Letters

KEY = ModelKey("transformer-en-de", "1")
STATS = EngineStats("transformer-en-de", "1", [StepStats(32, 0.002, 1, 0.001, True)], 32, 7, 0, 0.1, 0.2, {"client": 1})
OPTIONS = DecodeOptions(
    1, 2, 0.5, 0.25, 30, 3, 2, 1.5, Sampling(2**64 - 1, 0.5, 3, 0.9), (4, 5), AttentionDetail.ALL, omit_score=True
)
HYPOTHESIS = Hypothesis([4, 5, 3], -0.5, FinishReason.STOP, AttentionWeights((3, 1), bytes(12)), {1: 0}, -0.25)
DONE = Done(7, SequenceOutcome([HYPOTHESIS]), 1.0, 0.5, 1.6, 2.0, 3)
BOTH = [(ITERATIVE,), (ITERATIVE, KIND), (KIND, ITERATIVE)]

TO_WORKER: list[Any] = [
    Configure(EngineConfig(slots=7, variant="int8")),
    Load(KEY, ITERATIVE.path, "models/transformer-en-de/1", "cpu", "fp32", 7),
    Unload(KEY),
    sequence_work(7, [5, 6, 3], OPTIONS, Terms(12.5, True, -2, "me"), KEY),
    sequence_work(8, ImageSource(bytes(range(12)), 49), model=KEY),
    Cancel(KEY, 7, "client"),
    Stop(),
]
FROM_WORKER: list[Any] = [
    Hello("cuda", "1.31.1"),
    Loading(KEY),
    Loading(None),
    Ready(KEY, 1.5, 7),
    Broken(KEY, ["one", "two"], 7),
    Progress([], STATS),
    Progress([TokensProduced(6, [4, 5], {0: 1}), DONE, Failed(8, "CANCELLED", "made up")], STATS),
]


@pytest.mark.parametrize("kinds", BOTH, ids=lambda kinds: "+".join(kind.name for kind in kinds))
def test_messages_survive(kinds: tuple[Kind, ...]) -> None:
    for decoder, messages in ((to_worker(kinds), TO_WORKER), (from_worker(kinds), FROM_WORKER)):
        for message in messages:
            found = decoder.decode(ENCODER.encode(message))
            assert found == message
            assert type(found) is type(message)


def test_messages_of_another_kind_survive_beside() -> None:
    work = Work(1, ModelKey("letters", "1"), Terms(), 1, 3.0, Letters("abc"), "id-1")
    assert to_worker(BOTH[1]).decode(ENCODER.encode(work)) == work
    progress = Progress([Done(1, Counted({"a": 2}), 0.0, 0.0, 0.0, 0.0, 1)], STATS)
    assert from_worker(BOTH[1]).decode(ENCODER.encode(progress)) == progress


def test_kind_that_is_not_known_is_refused() -> None:
    work = Work(1, ModelKey("letters", "1"), Terms(), 1, 3.0, Letters("abc"))
    with pytest.raises(msgspec.ValidationError):
        to_worker((ITERATIVE,)).decode(ENCODER.encode(work))


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message).__name__ for message in TO_WORKER} == {"Configure", "Load", "Unload", "Work", "Cancel", "Stop"}
    assert {type(message).__name__ for message in FROM_WORKER} == {"Hello", "Loading", "Ready", "Broken", "Progress"}


def test_messages_are_short_and_not_tracked_by_the_garbage_collector() -> None:
    work = sequence_work(7, list(range(5, 35)), model=KEY)
    data = ENCODER.encode(work)
    assert len(data) < 160, "field names are not sent"
    assert not any(name.encode() in data for name in ("payload", "terms", "tokens", "options"))
    for each in (work, work.terms, work.payload, work.payload.options, DONE, DONE.outcome, HYPOTHESIS, STATS, FROM_WORKER[-1]):
        assert not gc.is_tracked(each)
    assert gc.is_tracked(string.Template("x")), "what would be seen"


def test_payload_has_the_counts_that_the_front_needs() -> None:
    text, image = SequencePayload([5, 6, 3], OPTIONS), SequencePayload.of(ImageSource(b"", 49), DecodeOptions(beam_size=3))
    assert (text.num_rows, text.num_source, text.num_pieces, text.max_steps, text.is_reproducible) == (2, 3, 2, 30, True)
    assert (image.num_rows, image.num_source, image.num_pieces, image.max_steps) == (3, 49, 0, 128)
    assert not SequencePayload([3], DecodeOptions(sampling=Sampling(1, is_drawn=True))).is_reproducible
    assert DONE.outcome.num_generated == 3
    assert DONE.outcome.as_part(9) == TokensProduced(9, [4, 5, 3], {1: 0})
