# SPDX-License-Identifier: Apache-2.0
"""Class maps whose files are made when a test lets them be."""

from __future__ import annotations

import threading

import pytest

from attnserve_server.tasks.class_map import ClassMap

NUM_THREADS = 2
"""Threads that make answers."""


class Gate:
    """Replaces the encoding of PNG files by a wait for ``opened``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun, self.opened = 0, threading.Event()
        monkeypatch.setattr(ClassMap, "png", lambda *_: self())

    def __call__(self) -> bytes:
        self.num_begun += 1
        assert self.opened.wait(30)
        return b"made"
