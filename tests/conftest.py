# SPDX-License-Identifier: Apache-2.0
"""Every test is marked with the folder it is in: `pytest -m unit`, `-m "parity or e2e"` and so on. All of `perf` is `load` too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

pytest_plugins = ["tests.e2e.shared", "tests.other_work", "tests.seeds"]

TESTS = Path(__file__).resolve().parent
KINDS = frozenset({"unit", "contract", "parity", "e2e", "chaos", "perf", "deploy"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Adds the markers; a folder that is no kind (``reference``, ``golden``) gives none."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            kind = item.path.relative_to(TESTS).parts[0]
            if kind in KINDS:
                item.add_marker(kind)
            if kind == "perf":
                item.add_marker("load")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loops of an asynchronous test: that of the server's process, and asyncio's too if it is marked ``every_loop``.

    Tests of clients run on asyncio's alone.
    """
    from attnserve_server.process import new_event_loop

    if item.path.is_relative_to(TESTS / "unit" / "client"):
        return {"asyncio": asyncio.new_event_loop}
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"served": new_event_loop}
    if item.get_closest_marker("every_loop") is not None:
        factories["asyncio"] = asyncio.new_event_loop
    return factories
