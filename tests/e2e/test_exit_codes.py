# SPDX-License-Identifier: Apache-2.0
"""How the server and the command line end: by signals, and with which exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import LONG_TEXT, eventually, serve, start_unary

OPTIONS = DecodeOptions(beam_size=8, num_hypotheses=8)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "attnserve_client.cli", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_ends_with_zero_after_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with serve(tmp_path, "--workers", "1") as server:
        server.process.send_signal(number)
        assert server.process.wait(20) == 0, server.tail()


def test_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1", "--slots", "8") as server, server.channel() as channel:
        unary = [start_unary(channel, LONG_TEXT, OPTIONS) for _ in range(40)]
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") >= 8, "a full batch")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.http("/healthz")[0] == 503, "the drain")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 130, server.tail()
        codes = {error.code() for future in unary if (error := future.exception(timeout=20)) is not None}
        assert codes == {grpc.StatusCode.UNAVAILABLE}, "some were left without an answer"


def test_server_that_cannot_start_ends_with_one(tmp_path: Path) -> None:
    done = command("serve", "--models", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: models: no bundle in {tmp_path}")


def test_default_of_another_task_ends_with_one(tmp_path: Path) -> None:
    config = tmp_path / "attnserve.toml"
    config.write_text('[default_models]\ntranslation = "show-attend-tell-flickr8k"\n', encoding="utf-8")
    done = command("serve", "--config", str(config), "--grpc-port", "0", "--http-port", "0")
    assert done.returncode == 1
    assert "'show-attend-tell-flickr8k' is not served; there are" in done.stderr


def test_usage_that_is_wrong_ends_with_two() -> None:
    assert command("serve", "--nonesuch").returncode == 2
    assert command("translate", "--beam-size", "many", "text").returncode == 2


def test_command_without_a_server_ends_with_one() -> None:
    done = command("translate", "text", "--timeout", "1", "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
