# SPDX-License-Identifier: Apache-2.0
"""The file in which a worker writes its stacks for the front."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

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


def soon() -> float:
    return time.monotonic() + 5


def test_process_writes_its_stacks_at_each_signal(file: StackFile) -> None:
    command = [sys.executable, "-c", PROGRAM, str(file.descriptor)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file.descriptor]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        texts = []
        for _ in range(2):
            file.clear()
            os.kill(process.pid, COLLECTED_SIGNAL)
            texts.append(file.text(soon()))
        process.communicate()
    assert all("in stuck_here" in text and text.count("most recent call first") == 1 for text in texts)
    assert process.returncode == 0


def test_nothing_within_the_time_is_empty(file: StackFile) -> None:
    began = time.monotonic()
    assert file.text(began + 0.05) == ""
    assert time.monotonic() - began < 1


def test_text_that_comes_in_parts_is_waited_for(file: StackFile) -> None:
    def write() -> None:
        for _ in range(5):
            os.write(file.descriptor, b"line\n")
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    assert file.text(soon()) == "line\n" * 5
    writer.join()


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
