# SPDX-License-Identifier: Apache-2.0
"""What users count as a failure: all that a server or a proxy refuses, and nothing that ends because Locust stopped the user."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.fakes.server import Failure, FakeServer
from tests.unit.loadtest.locust_runs import run_users

NUM_FAILURES = 5


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.mark.parametrize("options", [(), ("--rate", "20")], ids=["closed loop", "open loop"])
@pytest.mark.parametrize("name", ["Translate", "TranslateStream"])
def test_cancelled_by_the_server_is_a_failure_after_which_the_user_goes_on(
    server: FakeServer, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    """More failures than users: each failure would otherwise end one of them."""
    server.translation.failures.extend([Failure(grpc.StatusCode.CANCELLED)] * NUM_FAILURES)
    _, events = run_users(server, tmp_path, *options, f"{name}User")
    assert events[name]["errors"] == NUM_FAILURES
    assert events[name]["count"] > 0


@pytest.mark.parametrize("name", ["Translate", "TranslateStream"])
def test_call_under_way_when_the_user_is_stopped_is_neither_answer_nor_failure(
    server: FakeServer, tmp_path: Path, name: str
) -> None:
    gate = threading.Event()
    server.translation.before, server.translation.stream_gate = lambda *_: gate.wait(5) and None, gate
    _, events = run_users(server, tmp_path, f"{name}User")
    gate.set()
    assert 0 < len(server.translation.requests) <= 3
    assert name not in events
