# SPDX-License-Identifier: Apache-2.0
"""A worker's loop with a fake channel: the messages in both directions, and that no model stops another."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from attnserve_server.collector import quiet_collector
from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.engine.link.messages import (
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
)
from attnserve_server.engine.worker.beat import LIMIT_S, Beat
from attnserve_server.engine.worker.worker import Worker
from attnserve_server.errors import StartupError
from attnserve_server.kinds import ITERATIVE
from attnserve_server.request import Done, Failed, ModelKey, Terms, Work
from tests.fakes.channel import Channel
from tests.fakes.clock import Clock
from tests.foreign.letters import KIND, Abacus, Counted, Letters, write_bundle


def said(*groups: Sequence[Any]) -> list[Any]:
    """A worker's replies to groups of messages, with time for ten steps after each."""
    channel: Any = Channel(*(each for group in groups for each in (group, *[()] * 10)), kinds=[KIND])
    Worker(channel, "cpu", itertools.count(0.0, 0.001).__next__).run()  # steps and parts of loading take as long as each other
    assert channel.is_closed
    return channel.said


def load(folder: Path, kind: str = KIND.path) -> Load:
    return Load(ModelKey(folder.parent.name, folder.name), kind, str(folder), "cpu", "plain", 7)


def work(number: int, text: str, num_steps: int = 1) -> Work[Letters]:
    return Work(number, ModelKey("letters", "1"), Terms(), 1, 1.0, Letters(text, num_steps))


KEY = ModelKey("letters", "1")
CONFIGURE = Configure(EngineConfig(slots=4))


@pytest.fixture(autouse=True)
def _unfrozen() -> Any:
    yield
    gc.unfreeze()


def test_says_hello_with_its_device_and_leaves_when_it_is_told() -> None:
    assert said([Stop()]) == [Hello("cpu", onnxruntime.__version__)]


def test_kind_is_learnt_from_its_path_and_used_at_once(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    hello, ready, progress = said([CONFIGURE, load(folder)], [work(1, "abba")], [Stop()])
    assert (type(hello), type(ready), type(progress)) == (Hello, Ready, Progress)
    (done,) = progress.events
    assert isinstance(done, Done)
    assert done.outcome == Counted({"a": 2, "b": 2})
    assert (progress.stats.model, progress.stats.num_slots) == ("letters", 4)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("tests.foreign.letters:NOTHING", "ImportError"),
        ("tests.nowhere:KIND", "ModuleNotFoundError"),
        (ITERATIVE.path, "(empty name) is named but not listed"),
    ],
)
def test_model_that_cannot_be_loaded_stops_no_other(tmp_path: Path, kind: str, problem: str) -> None:
    sound, broken = write_bundle(tmp_path), write_bundle(tmp_path, "broken")
    _, first, second, progress = said([CONFIGURE, load(broken, kind), load(sound)], [work(1, "c")], [Stop()])
    assert isinstance(first, Broken)
    assert first.model == ModelKey("broken", "1")
    assert any(problem in each for each in first.problems)
    assert isinstance(second, Ready)
    assert progress.events[0].outcome == Counted({"c": 1})


def test_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, architecture="sundial")
    (folder / "notes.txt").write_text("mine")
    _, broken = said([CONFIGURE, load(folder)], [Stop()])
    assert sorted(broken.problems) == ["architecture 'sundial' counts no letters", "notes.txt is not listed"]


def test_messages_about_an_unloaded_model_are_ignored(tmp_path: Path) -> None:
    key = ModelKey("letters", "1")
    messages = said([CONFIGURE, load(write_bundle(tmp_path))], [Unload(key)], [Unload(key), Cancel(key, 7, "client"), Stop()])
    assert [type(message) for message in messages] == [Hello, Ready]


def test_others_are_stepped_while_a_model_is_loaded(tmp_path: Path) -> None:
    first, second = write_bundle(tmp_path), write_bundle(tmp_path, "second", alphabet="abcdefghij" * 10)
    third = write_bundle(tmp_path, "third")
    messages = said([CONFIGURE, load(first)], [load(second), load(third), work(1, "abc", 3)], *[()] * 20, [Stop()])
    order = [type(message).__name__ for message in messages]
    assert order.index("Progress") < len(order) - 2, "an answer before the others are loaded"
    ready = [message.model.id for message in messages if isinstance(message, Ready)]
    assert ready == ["letters", "second", "third"], "one after the other"
    done = [event for message in messages if isinstance(message, Progress) for event in message.events]
    assert [event.outcome for event in done] == [Counted({"a": 1, "b": 1, "c": 1})]


def test_what_is_loaded_is_told_where_it_changes(tmp_path: Path) -> None:
    first, second = write_bundle(tmp_path), write_bundle(tmp_path, "second", alphabet="ab" * 10)
    empty = write_bundle(tmp_path, "empty", alphabet="")
    channel: Any = Channel(
        [CONFIGURE, load(first)], *[()] * 10, [load(second), load(empty), work(1, "abc", 3)], *[()] * 50, [Stop()], kinds=[KIND]
    )
    Worker(channel, "cpu", itertools.count(0.0, 0.001).__next__).run()
    told = [message.model.id if message.model else None for message in channel.loading]
    assert told[:2] == ["letters", None], "five parts, and another message"
    assert told[2:4] == ["second", "empty"], "as their kinds are learnt"
    assert told.count(None) >= 4, "also for each step between two parts"
    assert [name for name, _ in itertools.groupby(filter(None, told))] == ["letters", "second", "empty", "second", "empty"]
    assert told[-1] is None


class Watched(Clock):
    """A clock that tells when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Semaphore(0)

    def __call__(self) -> float:
        self.reads.release()
        return super().__call__()


def test_long_part_beats_until_its_limit() -> None:
    beats, clock, came = list[Loading](), Watched(), threading.Semaphore(0)

    def send(message: Loading) -> None:
        beats.append(message)
        came.release()

    def is_silent() -> bool:
        """Whether the thread sends nothing although it looks at the clock, after a beat that may have been under way."""
        while clock.reads.acquire(blocking=False):
            pass
        assert clock.reads.acquire(timeout=20)
        before = len(beats)
        assert all(clock.reads.acquire(timeout=20) for _ in range(5))
        return len(beats) == before

    beat = Beat(send, clock)
    beat.start(0.005)
    beat.loading(KEY)
    assert all(came.acquire(timeout=20) for _ in range(4)), "one at once, three from the thread"
    clock.now += LIMIT_S
    assert is_silent(), "a part that hangs is silent in the end"
    beat.loading(KEY)
    while came.acquire(blocking=False):
        pass
    assert came.acquire(timeout=20), "the next part is not"
    assert all(each == Loading(KEY) for each in beats)
    beat.loading(None)
    time.sleep(0.1)  # several intervals
    assert beats[-1] == Loading(None), "nothing is sent where nothing is loaded"


def golden(*answers: tuple[str, int, dict[str, int]]) -> str:
    return json.dumps(answers)


def test_model_that_answers_wrongly_is_refused_and_others_are_served(tmp_path: Path) -> None:
    right = write_bundle(tmp_path, golden=golden(("abba", 1, {"a": 2, "b": 2}), ("c", 2, {"c": 1})))
    wrong = write_bundle(tmp_path, "wrong", golden=golden(("abba", 1, {"a": 2, "b": 2}), ("cc", 2, {"c": 1})))
    messages = said([CONFIGURE, load(wrong), load(right)], [], [], [work(1, "abba")], [Stop()])
    broken = next(message for message in messages if isinstance(message, Broken))
    assert broken.model == ModelKey("wrong", "1")
    assert broken.problems == ["variant plain, golden input 2: expected {'c': 1}, got {'c': 2}"]
    assert [message.model.id for message in messages if isinstance(message, Ready)] == ["letters"]
    progress = [message for message in messages if isinstance(message, Progress)]
    assert [event.outcome for each in progress for event in each.events] == [Counted({"a": 2, "b": 2})]
    assert sum(len(each.stats.steps) for each in progress) == 1, "no metric counts the comparison"


def test_golden_question_of_more_rows_than_slots_is_not_asked(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, golden=golden(("abba", 5, {"a": 99})))
    assert isinstance(said([CONFIGURE, load(folder)], [Stop()])[-1], Ready)
    assert isinstance(said([Configure(EngineConfig(slots=5)), load(folder)], [Stop()])[-1], Broken)


def test_golden_answers_are_not_compared_where_the_setting_says_so(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, golden=golden(("abba", 1, {"a": 99})))
    assert isinstance(said([Configure(EngineConfig(check_answers=False)), load(folder)], [Stop()])[-1], Ready)


def test_golden_question_without_an_answer_is_a_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path, golden=golden(("a", 1, {"a": 1}), ("b", 1, {"b": 1})))
    events = [[Failed(0, "EXECUTION_FAILED", "planted")], []]

    def step(abacus: Abacus) -> list[Any]:
        abacus.running.clear()
        return events.pop(0)

    monkeypatch.setattr(Abacus, "step", step)
    (broken,) = (each for each in said([CONFIGURE, load(folder)], [Stop()]) if isinstance(each, Broken))
    assert broken.problems == [
        "variant plain, golden input 1: no answer (EXECUTION_FAILED: planted)",
        "variant plain, golden input 2: no answer",
    ]


def test_bundle_without_golden_answers_is_served_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert isinstance(said([CONFIGURE, load(write_bundle(tmp_path))], [Stop()])[-1], Ready)
    assert "letters, version 1, has no golden answers: it is served without a comparison" in caplog.messages


class Cycle:
    """A reference cycle, which only a garbage collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_frozen_and_unloaded_is_collected() -> None:
    cycle = Cycle()
    gone = weakref.ref(cycle)
    quiet_collector()
    del cycle
    gc.collect()
    assert gone() is not None, "it was frozen: nothing is shown otherwise"
    quiet_collector()
    assert gone() is None


async def test_worker_that_cannot_start_is_reported() -> None:
    pool = WorkerPool(1, python="/bin/false")
    with pytest.raises(StartupError, match="the workers die before they are ready"):
        await pool.open()
    await pool.stop()
