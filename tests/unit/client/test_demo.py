# SPDX-License-Identifier: Apache-2.0
"""The demo, with a stand-in for the server's process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_client.demo import metrics
from attnserve_client.demo.runner import run
from attnserve_client.demo.server import DemoServer
from attnserve_client.errors import ToolError

ROOT = Path(__file__).resolve().parents[3]

STAND_IN = """
import http.server, json, pathlib, signal, sys, threading
sys.path.insert(0, {root!r})
from tests.fakes.server import FakeServer, model_of

class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(b'attnserve_batch_rows_sum 6\\nattnserve_batch_rows_count 4\\n')

signal.signal(signal.SIGTERM, lambda *_: sys.exit({exit_code}))
fake, web = FakeServer(), http.server.HTTPServer(("127.0.0.1", 0), Metrics)
names = ["fake-en-de", "other-en-de", "without-en-de"]
fake.models.models = [model_of(name) for name in names[:{num_models}]] + [model_of(f"fake-{{task}}", task) for task in {tasks}]
threading.Thread(target=web.serve_forever, daemon=True).start()
print("stand-in started", sys.argv[1:], flush=True)
ready = pathlib.Path(sys.argv[sys.argv.index("--ready-file") + 1])
ready.with_suffix(".tmp").write_text(json.dumps({{"grpc_port": fake.port, "http_port": web.server_port, "pid": 1}}))
ready.with_suffix(".tmp").replace(ready)
signal.pause()
"""


def stand_in(tmp_path: Path, num_models: int = 1, exit_code: int = 0, tasks: Sequence[int] = ()) -> list[str]:
    script = tmp_path / "server.py"
    script.write_text(STAND_IN.format(root=str(ROOT), num_models=num_models, exit_code=exit_code, tasks=list(map(int, tasks))))
    return [sys.executable, str(script)]


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command=stand_in(tmp_path, num_models=3), results=tmp_path / "results") == 0
    out = capsys.readouterr().out
    pictures = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert pictures == ["demo-attention-other-en-de.png", "demo-attention.png"]
    assert out.count("drawn in") == 2
    assert out.count("streamed, piece by piece") == 1
    assert out.count("parts, beam 4") == 1
    assert out.count("BENCH A ON GUITAR") == 3
    assert out.count("   A dog is sleeping under a tree.") == 1
    assert [line.split()[0] for line in out.splitlines() if "BEACH. THE ON" in line and "-en-de" in line] == [
        "fake-en-de", "other-en-de", "without-en-de",
    ]  # fmt: skip
    assert "-0.500  BEACH. THE ON" in out
    assert "this model has no attention" in out  # the third
    assert "rows per step, mean  1.50" in out


def test_demo_of_models_that_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [manifest_pb2.TASK_SEGMENTATION, manifest_pb2.TASK_CLASSIFICATION, manifest_pb2.TASK_GENERATION]
    assert run(command=stand_in(tmp_path, num_models=0, tasks=tasks), results=tmp_path / "results") == 0
    out = capsys.readouterr().out
    assert "street.jpg: 960 × 540 pixels" in out
    lines = [line.strip() for line in out.splitlines()]
    assert lines.count("S" * 72) == lines.count("R" * 72) == 10  # 72 × 540 / 960 / 2 lines, half of them sky
    assert "S Sky, R Road" in lines
    assert any(line.startswith("██ Road") for line in lines)
    assert any(line.startswith(("cat", "dog", "frog")) and "70.0 %" in line for line in lines)
    pictures = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert "8 images of 4 × 4 pixels: cat" in out
    assert pictures == ["classification-fake-4.png", "generation-fake-6.png", "segmentation-fake-3.png"]


def test_demo_of_a_single_model_compares_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command=stand_in(tmp_path), results=tmp_path / "results") == 0
    out = capsys.readouterr().out
    assert "all models" not in out
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["demo-attention.png"]


def test_demo_of_a_server_without_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--models", "nowhere"], command=stand_in(tmp_path, num_models=0)) == 1
    error = capsys.readouterr().err
    assert "serves no model" in error
    assert "stand-in started" in error
    assert "nowhere" in error


def test_demo_of_a_server_that_ends_badly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command=stand_in(tmp_path, exit_code=3), results=tmp_path) == 1
    assert "exit code 3" in capsys.readouterr().err


def test_demo_of_a_server_that_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command=[sys.executable, "-c", "import sys; sys.exit('no port')"]) == 1
    error = capsys.readouterr().err
    assert "ended with exit code 1" in error
    assert "no port" in error


def test_server_that_is_never_ready_is_ended() -> None:
    with DemoServer(command=[sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        with pytest.raises(ToolError, match="not ready within"):
            server.wait_ready(0.1)
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_runs_in_the_environment_that_is_given() -> None:
    program = "import os, sys; print(os.getpid(), os.environ); sys.exit(1)"
    server = DemoServer(command=[sys.executable, "-c", program], environment={"ONLY": "this"})
    with pytest.raises(ToolError, match="not been started"):
        _ = server.pid
    with server:
        with pytest.raises(ToolError, match="exit code 1"):
            server.wait_ready()
        pid, environment = server.log_tail().split(" ", 1)
        assert int(pid) == server.pid
    assert "'ONLY': 'this'" in environment
    assert "'PATH'" not in environment


def test_metrics() -> None:
    text = (
        "# HELP attnserve_requests_total Requests.\n"
        'attnserve_requests_total{code="OK",method="Translate",model="a \\"b\\""} 3.0\n'
        'attnserve_requests_total{code="OK",method="Translate",model="c"} 0.0\n'
        'attnserve_generated_tokens_total{model="m"} 20.0\n'
        'attnserve_batch_rows_bucket{le="1"} 9\n'
    )
    assert metrics.summary(text) == [('requests, a \\"b\\" Translate OK', "3"), ("tokens generated", "20")]
    assert metrics.samples("", "x") == []
