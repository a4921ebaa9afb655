# SPDX-License-Identifier: Apache-2.0
"""Processor time of a server: of its front, of its workers, and of every other process below it."""

from __future__ import annotations

import psutil

from attnserve_client.errors import ToolError


def front_seconds(pid: int) -> float:
    """User and system time of the one process since it started, in seconds: of a server its front, without the workers.

    Raises:
        ToolError: the process has ended.
    """
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error as error:
        raise ToolError(f"no processor time of the server: {error}") from error
    return float(times.user + times.system)


def processor_seconds(pid: int) -> float:
    """User and system time of a process and of all its descendants since each of them started, in seconds.

    On Linux the values are those of ``/proc/PID/stat`` (utime, stime, cutime, cstime), in steps of a clock tick (10 ms) for each
    process. Descendants that have ended count through ``cutime`` and ``cstime`` of the process that waited for them.

    Raises:
        ToolError: one of the processes ended while it was read, so that its time would be missing.
    """
    try:
        root = psutil.Process(pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    except psutil.Error as error:
        raise ToolError(f"no processor time of the server: {error}") from error
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)
