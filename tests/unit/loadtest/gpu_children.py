# SPDX-License-Identifier: Apache-2.0
"""Fake checks, each of which ends its process in another way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from attnserve_loadtest.gpu.context import Context
from attnserve_loadtest.gpu.results import NoDevice, Skip

MODULE = __name__


def passing(_context: Context, figures: dict[str, Any]) -> None:
    figures["ms"] = 1.5


def failing(_context: Context, figures: dict[str, Any]) -> None:
    figures["identical"] = 0.4
    raise AssertionError("not as on the CPU")


def missing(_context: Context, _figures: dict[str, Any]) -> None:
    raise Skip("no PyTorch here")


def deviceless(_context: Context, _figures: dict[str, Any]) -> None:
    raise NoDevice("the driver is too old")


def crashing(_context: Context, figures: dict[str, Any]) -> None:
    figures["before"] = 1
    os.kill(os.getpid(), signal.SIGSEGV)


def exiting(_context: Context, _figures: dict[str, Any]) -> None:
    print("cuda error 700", flush=True)
    os._exit(3)


def hanging(_context: Context, figures: dict[str, Any]) -> None:
    figures["server"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    time.sleep(600)


def cut(context: Context, figures: dict[str, Any]) -> None:
    """The first item takes nearly all of the time."""
    for item in context.in_time(["a", "b", "c"], figures):
        figures[item] = True
        context.deadline = time.monotonic()
