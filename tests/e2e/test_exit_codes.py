# SPDX-License-Identifier: Apache-2.0
"""How the server and the command line end: by signals, and with which exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import onnxruntime
import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import (
    LONG_TEXT,
    MODELS,
    SENTENCES,
    Server,
    ask,
    eventually,
    is_alive,
    is_worker,
    serve,
    start_unary,
    wait_for_arrival,
)

OPTIONS = DecodeOptions(beam_size=8, num_hypotheses=8)
GRACE_S = 3.0
"""Time that a server which has served leaves its workers to end."""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "attnserve_client.cli", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]


@pytest.mark.parametrize("number", SIGNALS)
def test_idle_server_ends_with_zero_after_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with serve(tmp_path, "--workers", "1") as server, server.channel() as channel:
        for worker in server.children():
            os.kill(worker, number)
        ask(channel, SENTENCES[0])
        server.assert_unharmed()
        server.process.send_signal(number)
        assert server.process.wait(60) == 0, server.tail()
        assert not (tmp_path / "ready.json").exists()


@pytest.mark.load
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_during_the_start_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """Before a worker has said anything, and (the other two) while one loads. The worker hangs, and all processes get the signal."""
    is_early = number in (signal.SIGTERM, signal.SIGHUP)
    log, ready = tmp_path / "server.log", tmp_path / "ready.json"
    flags = ["--models", str(MODELS), "--grpc-port", "0", "--http-port", "0", "--ready-file", str(ready)]
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "attnserve_server", *flags], stderr=output)
    server = Server(process, 0, 0, {}, log)
    try:
        eventually(lambda: any(map(is_worker, server.children())), "a worker", 30)
        eventually(lambda: is_early or "gRPC listens" in log.read_text(), "a worker that loads", 30)
        workers = server.children()
        os.kill(workers[0], signal.SIGSTOP)
        time.sleep(0.2)
        for pid in (*workers, process.pid):
            os.kill(pid, number)
        began = time.monotonic()
        assert process.wait(20) == 0, server.tail()
        assert time.monotonic() - began < GRACE_S, "it waits for no worker"
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not any(map(is_alive, workers)), "no worker is left")
    assert not ready.exists()
    assert "stopped before it was ready" in server.tail()
    assert "Traceback" not in server.tail()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_ends_the_process_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with serve(tmp_path, "--workers", "1", "--slots", "8") as server, server.channel() as channel:
        unary = [start_unary(channel, LONG_TEXT, OPTIONS) for _ in range(120)]  # of 0.1 s each
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") >= 8, "a full batch")
        wait_for_arrival(channel)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.http("/healthz")[0] == 503, "the drain")
        for worker in server.children():
            for each in SIGNALS:
                os.kill(worker, each)
        server.process.send_signal(signal.SIGHUP)
        assert server.http("/healthz") == (503, "draining\n"), "service managers send SIGHUP after SIGTERM"
        server.process.send_signal(number)
        assert server.process.wait(20) == 130, server.tail()
        assert not (tmp_path / "ready.json").exists()
        codes = {error.code() for future in unary if (error := future.exception(timeout=20)) is not None}
        assert codes == {grpc.StatusCode.UNAVAILABLE}, "some were left without an answer"


def test_server_that_cannot_start_ends_with_one(tmp_path: Path) -> None:
    done = command("serve", "--models", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: models: no bundle in {tmp_path}")


def test_service_links_of_kubernetes_do_not_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSERVE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("ATTNSERVE_GRPC_PORT", "tcp://10.0.0.1:8001")
    done = command("serve", "--models", str(tmp_path), "--log-level", "debug")
    assert "no settings, but Kubernetes service links: ATTNSERVE_GRPC_PORT, ATTNSERVE_SERVICE_HOST" in done.stderr
    assert f"error: models: no bundle in {tmp_path}" in done.stderr, "the start goes on"


def test_ready_file_that_cannot_be_written_ends_with_one_before_anything_is_loaded(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "ready.json"
    done = command("serve", "--models", str(tmp_path), "--ready-file", str(missing))
    assert done.returncode == 1
    assert done.stderr == f"error: --ready-file {missing}: cannot be written: No such file or directory\n"


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


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="the package has CUDA")
def test_missing_device_ends_the_start() -> None:
    ended = command("serve", "--device", "cuda", "--grpc-port", "0", "--http-port", "0")
    assert ended.returncode == 1
    *log, last = ended.stderr.splitlines()
    assert last.startswith(
        "error: the device 'cuda' cannot be used: this ONNX Runtime was built without CUDA; install the extra gpu"
    )
    assert len(log) < 10
    assert not any("Traceback" in line for line in log)
