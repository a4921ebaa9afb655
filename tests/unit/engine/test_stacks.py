# SPDX-License-Identifier: Apache-2.0
"""The file in which a worker writes its stacks for the front."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from attnserve_server.engine.front import stacks
from attnserve_server.engine.front.stacks import StackFile
from attnserve_server.process import COLLECTED_SIGNAL

PROGRAM = """
import sys
from attnserve_server.process import write_stacks_on_signal
write_stacks_on_signal(int(sys.argv[1]))
def stuck_here():
    print(flush=True)
    sys.stdin.read()
stuck_here()
"""


@pytest.fixture
def file() -> Iterator[StackFile]:
    file = StackFile()
    yield file
    file.close()


class Time:
    """Stands for ``time`` in the module: it passes only where something sleeps, and ``at_sleep`` is called then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_sleep: Callable[[], object] = lambda: None) -> None:
        self.now, self._at_sleep = 0.0, at_sleep
        monkeypatch.setattr(stacks, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._at_sleep()


def whole_text(file: StackFile) -> str:
    """Waits for the outermost frame: a busy machine may stop the process amid its stacks for longer than ``text`` waits."""
    until = time.monotonic() + 60
    while not (text := file.text(until)).endswith("in <module>\n"):
        assert time.monotonic() < until, text
    return text


def test_process_writes_its_stacks_at_each_signal(file: StackFile) -> None:
    command = [sys.executable, "-c", PROGRAM, str(file.descriptor)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file.descriptor]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        texts = []
        for _ in range(2):
            file.clear()
            os.kill(process.pid, COLLECTED_SIGNAL)
            texts.append(whole_text(file))
        process.communicate()
    assert all("in stuck_here" in text and text.count("most recent call first") == 1 for text in texts)
    assert process.returncode == 0


def test_nothing_within_the_time_is_empty(file: StackFile, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    assert file.text(0.5) == ""
    assert clock.now == pytest.approx(0.5, abs=0.02)


def test_text_that_comes_in_parts_is_waited_for(file: StackFile, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = itertools.count(1)

    def write() -> None:
        if (number := next(polls)) % 3 == 0 and number <= 15:
            os.write(file.descriptor, b"line\n")

    clock = Time(monkeypatch, write)
    assert file.text(5.0) == "line\n" * 5
    assert clock.now < 1, "and no longer than it comes"


def test_file_of_a_worker_that_has_ended_is_empty_and_touches_no_other() -> None:
    file = StackFile()
    os.write(file.descriptor, b"text")
    file.close()
    other = os.memfd_create("other")
    try:
        assert other == file.descriptor, "the number is used again"
        os.write(other, b"kept")
        file.clear()
        assert file.text(time.monotonic() + 0.05) == ""
        assert os.fstat(other).st_size == 4
    finally:
        os.close(other)


def test_system_without_anonymous_files_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="anonymous"):
        StackFile()
