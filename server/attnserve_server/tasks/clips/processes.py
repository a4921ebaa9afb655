# SPDX-License-Identifier: Apache-2.0
"""The front's decoding processes (``decoder.py``): as many as threads ask at once. They start when they are needed."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import socket
import subprocess
import sys
import threading

import msgspec

from attnserve_server.errors import Cancelled, ExecutionFailed, ExtraMissing, InvalidRequest, Overloaded
from attnserve_server.tasks.clips import wire
from attnserve_server.tasks.clips.wire import Decoded, Refused, Wanted
from attnserve_server.tasks.ending import Ending, current

MODULE = "attnserve_server.tasks.clips.decoder"
TIMEOUT_S = 70.0
"""Time of one answer; the process ends itself before."""
START_S = 60.0
_RETRY_S = 1.0
_TOO_LONG = (-signal.SIGXCPU, -signal.SIGALRM)
_STOPPED = (-signal.SIGKILL, -signal.SIGTERM)
FIELD = "video"
log = logging.getLogger(__name__)


def check_decoder() -> None:
    """Checks that files can be decoded.

    Raises:
        ExtraMissing: PyAV is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise ExtraMissing(
            'video files need PyAV on the server: pip install "attnserve[video]"; without it, send the clip as frames', field=FIELD
        )


class Decoding:
    """Decodes files, each in one of the processes. When the request ends (``tasks/ending.py``), its process does. Thread-safe.

    Args:
        command: starts a process.
        timeout_s: time of one answer.
    """

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", MODULE), timeout_s: float = TIMEOUT_S) -> None:
        self._command, self._timeout_s = command, timeout_s
        self._idle: list[_Process] = []
        self._lock = threading.Lock()

    def decode(self, data: bytes, wanted: Wanted) -> Decoded:
        """Decodes a file.

        Raises:
            InvalidRequest: it cannot be decoded, takes too long, exceeds a limit, or ends its process.
            Overloaded: the system has stopped the process, or refuses one.
            ExecutionFailed: no process starts.
            Cancelled: the request has ended.
        """
        ending = current()
        while (process := self._take()) is not None:
            with contextlib.suppress(_Ended):  # it was idle for long
                return self._ask(process, ending, data, wanted)
        ending.check()
        try:
            return self._ask(_Process(self._command, self._timeout_s), ending, data, wanted)
        except _Ended as ended:
            raise ExecutionFailed("no decoder for video files starts") from ended

    def close(self) -> None:
        """Ends the processes that wait for a clip. Those that start or decode end with their requests, which end first."""
        while (process := self._take()) is not None:
            process.close()

    def idle_pids(self) -> list[int]:
        """Returns the process ids of the processes that wait for a clip."""
        with self._lock:
            return [process.pid for process in self._idle]

    def _take(self) -> _Process | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _ask(self, process: _Process, ending: Ending, data: bytes, wanted: Wanted) -> Decoded:
        try:
            with ending.stopping(process.kill):
                process.wait_until_ready()
                answer = process.ask(data, wanted)
        except BaseException:
            process.close()
            raise
        with self._lock:  # close() takes the idle ones after the ends of requests
            is_kept = not ending.has_ended
            if is_kept:
                self._idle.append(process)
        if not is_kept:
            process.close()
        if isinstance(answer, Refused):
            raise InvalidRequest(f"{FIELD} {answer.text}", field=FIELD)
        return answer


class _Ended(Exception):
    """The process had ended before it got the file."""


class _Process:
    """One process and its socket."""

    def __init__(self, command: tuple[str, ...], timeout_s: float) -> None:
        self._end, theirs = socket.socketpair()
        self._decoder = msgspec.msgpack.Decoder[wire.Answer](wire.Answer)
        self._timeout_s, self._is_ready, self._is_killed = timeout_s, False, False
        try:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            self._end.close()
            raise Overloaded("no process for video files now; try again", retry_after_s=_RETRY_S) from error
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Waits for the end of its start.

        Raises:
            ExecutionFailed: it does not start.
            Cancelled: :meth:`kill` ended it.
        """
        if self._is_ready:
            return
        try:
            self._end.settimeout(START_S)
            self._decoder.decode(wire.receive(self._end))
        except (OSError, EOFError) as error:
            self.close()
            if self._is_killed:
                raise _killed() from error
            log.error("a decoder of video files ended at its start, with code %s", self._process.returncode)
            raise ExecutionFailed("no decoder for video files starts") from error
        self._end.settimeout(self._timeout_s)
        self._is_ready = True

    def ask(self, data: bytes, wanted: Wanted) -> Decoded | Refused:
        """Returns the answer to a file.

        Raises:
            _Ended: it had ended before.
            InvalidRequest: the file ended it, or it gave no answer in time.
            Overloaded: the system stopped it.
            Cancelled: :meth:`kill` ended it.
        """
        if self._process.poll() is not None:
            raise _killed() if self._is_killed else _Ended
        try:
            wire.send(self._end, wanted, data)
            answer = self._decoder.decode(wire.receive(self._end))
            if not isinstance(answer, Decoded):
                assert isinstance(answer, Refused)
                return answer
            return _with_pixels(answer, wire.receive(self._end), wanted)
        except TimeoutError as error:
            raise InvalidRequest(f"{FIELD} takes too long to decode", field=FIELD) from error
        except (OSError, EOFError) as error:
            raise self._fate(len(data)) from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Ends the process; :meth:`wait_until_ready` or :meth:`ask` on another thread then fails."""
        self._is_killed = True
        self._process.kill()

    def close(self) -> None:
        """Ends the process and waits for its end."""
        self._end.close()
        self._process.kill()
        self._process.wait()

    def _fate(self, num_bytes: int) -> Exception:
        """Returns the error of a file whose process has ended."""
        code = self._process.wait()
        if self._is_killed:
            return _killed()
        if code == 0:
            return _Ended()
        log.warning("a decoder of video files ended with code %d at a file of %d bytes", code, num_bytes)
        if code in _STOPPED:
            return Overloaded("the decoder of the video file was stopped; try again", retry_after_s=_RETRY_S)
        if code in _TOO_LONG:
            return InvalidRequest(f"{FIELD} takes too long to decode", field=FIELD)
        return InvalidRequest(f"{FIELD} cannot be decoded: the decoder failed", field=FIELD)


def _killed() -> Cancelled:
    return Cancelled("the request ended while its file was decoded")


def _with_pixels(answer: Decoded, data: bytes, wanted: Wanted) -> Decoded:
    size = wanted.width * wanted.height * 3
    parts = {index: data[at * size : (at + 1) * size] for at, index in enumerate(sorted(set(answer.indices)))}
    return msgspec.structs.replace(answer, pixels=[parts[index] for index in answer.indices])
