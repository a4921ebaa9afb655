# SPDX-License-Identifier: Apache-2.0
"""Class maps whose files are made when a test lets them be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from attnserve_server.dataplane.offload import Preparing
from attnserve_server.tasks.class_map import ClassMap

NUM_THREADS = 2
"""Threads that make answers."""


class Gate:
    """Replaces the encoding of PNG files by a wait for ``opened``.

    Attributes:
        num_queued: answers of the front that were handed to the threads.
        num_begun: answers that a thread has begun to make.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_queued = self.num_begun = 0
        self.opened = threading.Event()
        monkeypatch.setattr(ClassMap, "png", lambda *_: self())
        finish = Preparing.finish

        def counted(preparing: Preparing, work: Callable[[], Any]) -> Any:
            self.num_queued += 1
            return finish(preparing, work)

        monkeypatch.setattr(Preparing, "finish", counted)

    def __call__(self) -> bytes:
        self.num_begun += 1
        assert self.opened.wait(30)
        return b"made"
