# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest for tests with bars of time, which hold only where other work leaves the processors to them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator

import psutil
import pytest

from tests.rerun import JUDGED

MOST = 0.1
"""Share of all processors that other work may take where such a test is judged."""


class BarMissedError(AssertionError):
    """A bar of time was missed; what else fails in a test has failed on any machine."""


@contextlib.contextmanager
def bars() -> Iterator[None]:
    """Takes the assertions within for bars of time, in tests marked ``quiet``."""
    try:
        yield
    except AssertionError as error:
        raise BarMissedError(str(error)) from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Skips a test marked ``quiet`` whose bars are missed beside other work; one that passes beside it has passed."""
    if item.get_closest_marker("quiet") is None:
        return (yield)
    others = OtherWork()
    try:
        return (yield)
    except BarMissedError as error:
        share = others.share()
        if share <= MOST or JUDGED in os.environ:
            raise
        reason = str(error).partition("\n")[0]
        raise pytest.skip.Exception(
            f"{item.name} is not judged, other work took {share:.0%} of the processors: {reason}"
        ) from error


class OtherWork:
    """Measures from now on what is neither idle nor of this process and its children; time taken by other virtual machines counts."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._machine_s, self._own_s = machine_s(), _own_s()

    def taken_s(self) -> float:
        """Returns the processor time that other work has taken so far, in seconds."""
        return machine_s() - self._machine_s - (_own_s() - self._own_s)

    def share(self) -> float:
        """Returns the share of all processors that other work has taken so far, 0 to 1."""
        return max(0.0, self.taken_s() / ((time.monotonic() - self._began) * (psutil.cpu_count() or 1)))


def machine_s() -> float:
    """Processor time that is not idle, in seconds since the machine was started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)  # a guest's time is in `user` too


def _own_s() -> float:
    """Processor time of this process, its children, and theirs, in seconds; also of those that have ended and were waited for."""
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
