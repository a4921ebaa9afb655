# SPDX-License-Identifier: Apache-2.0
"""Libraries that each process has loaded, after a server has answered."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.e2e.serving import SENTENCES, Server, ask

RUNTIME = "onnxruntime"


def libraries(pid: int) -> set[str]:
    """Names of all files that a process has mapped, those of shared libraries among them."""
    return {line.split(maxsplit=5)[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_front_has_no_onnx_runtime_and_workers_have(server: Server, channel: grpc.Channel) -> None:
    """Otherwise the front would hold a CUDA context on a machine with a GPU."""
    assert ask(channel, SENTENCES[0]).hypotheses
    assert server.http("/metrics")[0] == 200
    front = libraries(server.process.pid)
    assert any("grpc" in each for each in front), "its libraries are seen"
    assert not [each for each in front if RUNTIME in each]
    for pid in server.workers.values():
        assert [each for each in libraries(pid) if RUNTIME in each]
