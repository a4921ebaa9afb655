# SPDX-License-Identifier: Apache-2.0
"""Clips whose requests end while they are decoded: the process ends, or is kept where it has done its work."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attnserve_server.errors import Cancelled, InvalidRequest
from attnserve_server.tasks.clips import clip, wire
from attnserve_server.tasks.clips.clip import read_frames
from attnserve_server.tasks.clips.processes import MODULE, Decoding
from attnserve_server.tasks.clips.wire import ClipLimits, Wanted
from attnserve_server.tasks.ending import Ending
from attnserve_server.tasks.images import read_picture
from tests.clips import moving, needs_decoder, png, slow_gif
from tests.unit.engine.test_clips import HELLO, LIMITS, SHAPE, faulty

WANTED = Wanted("gif", LIMITS, 8, 32, 24)


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def started(pids: Path) -> int:
    """The process id that a process has written to a file."""
    until = time.monotonic() + 60
    while not (pids.exists() and (text := pids.read_text()).endswith(";")):
        assert time.monotonic() < until, "no process has started"
        time.sleep(0.005)
    return int(text[:-1])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("phase", ["starts", "decodes"])
def test_end_of_the_request_ends_a_process_that(phase: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pids, num_open = tmp_path / "pids", num_open_files()
    waits = f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}};'); signal.pause()"
    decoding = faulty(waits) if phase == "decodes" else Decoding((sys.executable, "-c", HELLO + waits))
    ending = Ending()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(ending.run, lambda: decoding.decode(b"GIF89a", WANTED))
        pid = started(pids)
        ending.end()
        with pytest.raises(Cancelled):
            future.result(60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not decoding.idle_pids()
    assert num_open_files() <= num_open  # what earlier tests have left may be closed meanwhile
    assert not [record for record in caplog.records if record.name.startswith("attnserve")]


def test_no_process_starts_for_a_request_that_has_ended() -> None:
    ending, decoding = Ending(), Decoding(("/nowhere/python",))
    with pytest.raises(Cancelled):
        ending.run(lambda: ending.end() or decoding.decode(b"GIF89a", WANTED))


@pytest.mark.timeout(120)
def test_process_that_answers_as_its_request_ends_does_not_stay_when_the_server_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    ending, decoding, receive = Ending(), faulty("wire.send(end, wire.Refused('is dull'))"), wire.receive

    def ends_after(end: socket.socket) -> bytes:
        message = receive(end)
        if b"dull" in message:
            ending.end()
            decoding.close()
        return message

    monkeypatch.setattr(wire, "receive", ends_after)
    with pytest.raises(InvalidRequest, match="video is dull"):
        ending.run(lambda: decoding.decode(b"GIF89a", WANTED))
    assert not decoding.idle_pids()


def test_frames_are_decoded_until_the_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ending, frames, begun = Ending(), tuple(png(frame) for frame in moving(8)), list[bytes]()

    def ends_at_third(frame: bytes, *args: Any) -> Any:
        begun.append(frame)
        if len(begun) == 3:
            ending.end()
        return read_picture(frame, *args)

    monkeypatch.setattr(clip, "read_picture", ends_at_third)
    with pytest.raises(Cancelled):
        ending.run(lambda: read_frames(frames, LIMITS, SHAPE))
    assert begun == list(frames[:3])


def processor_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@needs_decoder
@pytest.mark.timeout(180)
def test_decoder_ends_with_the_front_while_it_decodes() -> None:
    """A front that was killed closes its socket. The clip takes more than ten seconds of processor time."""
    end, theirs = socket.socketpair()
    with end, theirs, subprocess.Popen((sys.executable, "-m", MODULE), stdin=theirs.fileno()) as process:
        try:
            end.settimeout(60)
            wire.receive(end)
            wire.send(end, Wanted("gif", ClipLimits(), 8, 32, 24), slow_gif(2_500))
            began = processor_s(process.pid)
            while processor_s(process.pid) < began + 0.5:
                time.sleep(0.02)
            assert not select.select([end], [], [], 0)[0], "it has answered, or ended"
            end.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            assert used.ru_utime + used.ru_stime < began + 5, "it has decoded the rest"
        finally:
            process.kill()
