# SPDX-License-Identifier: Apache-2.0
"""The event loop, the limit of open files, ``nohup``, and the file that says that the server is ready."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnserve_server.errors import StartupError
from attnserve_server.process import STOP_SIGNALS, ReadyFile, run, stop_event


async def name_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_server_runs_on_uvloop() -> None:
    assert run(name_of_loop()) == "uvloop"


def test_server_runs_on_asyncio_where_uvloop_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run(name_of_loop()) == "asyncio"


@pytest.mark.parametrize("installed", [True, False])
def test_stop_signals_do_after_the_loop_what_they_did_before(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    async def serve() -> None:
        stop_event(lambda: None)
        assert [number for number in STOP_SIGNALS if signal.getsignal(number) == before[number]] == []
        raise ValueError("planted")

    if not installed:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with pytest.raises(ValueError, match="planted"):
        run(serve())
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


LIMIT = """
import resource
from attnserve_server.process import raise_descriptor_limit
raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))\n{LIMIT}"
    done = subprocess.run([sys.executable, "-c", lowered], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [str(hard), str(hard)]


def test_fork_handlers_of_grpc_are_switched_off_before_it_is_imported() -> None:
    program = "import os, sys, attnserve_server; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'], 'grpc' in sys.modules)"
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environ)
    assert done.stdout.split() == ["0", "False"]


def test_ready_file_is_there_from_its_writing_to_its_removal(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("of a process that was killed")
    ready = ReadyFile(path)
    assert not path.exists()
    ready.write({"grpc_port": 7})
    assert json.loads(path.read_text()) == {"grpc_port": 7}
    ready.remove()
    ready.remove()
    assert list(tmp_path.iterdir()) == []


def test_ready_file_is_not_there_while_its_folder_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made = tmp_path / "ready.json", list[Path]()
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda own, target: made.append(target) or replace(own, target))
    ReadyFile(path)
    assert made == []


def test_ready_file_of_another_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    ready = ReadyFile(path)
    path.write_text("of a process that came meanwhile")
    ready.remove()
    assert path.exists()


def test_ready_file_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--ready-file .*gone/ready\.json: cannot be written: No such file or directory"):
        ReadyFile(tmp_path / "gone" / "ready.json")
    with pytest.raises(StartupError, match="cannot be written: Is a directory"):
        ReadyFile(tmp_path)
    ReadyFile(None).write({})


def test_disk_that_is_full_by_then_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_text(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    ready = ReadyFile(tmp_path / "ready.json")
    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(StartupError, match="cannot be written: No space left on device"):
        ready.write({})


@pytest.mark.every_loop
async def test_hang_up_that_was_ignored_before_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = stop_event(lambda: None)
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0.01)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 10)
    finally:
        for number, handler in before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
