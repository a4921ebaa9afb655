# SPDX-License-Identifier: Apache-2.0
"""The comparison of single-pass models: the client over HTTP, the clock of the model's runs, the work of a peer, the bars."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from attnserve_client.errors import ToolError
from attnserve_loadtest.bench.passes import environments, measure, report, sides
from attnserve_loadtest.bench.passes.answers import agreement
from attnserve_loadtest.bench.passes.client import BOUNDARY, Target, form, load
from attnserve_loadtest.bench.passes.clock.sitecustomize import SUMS
from attnserve_loadtest.bench.passes.measure import Cost, Result
from attnserve_loadtest.bench.passes.work import Settings, Work
from attnserve_loadtest.bench.rounds import Ratio
from attnserve_server.bundle.loader import load_bundle
from tests.fakes import passes


@pytest.fixture
def peer() -> Iterator[tuple[str, list[bytes], dict[str, bytes]]]:
    """An HTTP server that gives one answer to all requests: its address, the heads of the requests, and the answer."""
    heads, answer, started, loop = (
        list[bytes](),
        {"bytes": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
        threading.Event(),
        None,
    )
    port = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            size = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
            await reader.readexactly(size)
            writer.write(answer["bytes"])
            if b"close" in answer["bytes"]:
                writer.close()

    def quietly(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
        """A client that closes its connection is no error."""

    async def main() -> None:
        nonlocal port, loop
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        loop, port = asyncio.get_running_loop(), server.sockets[0].getsockname()[1]
        loop.set_exception_handler(quietly)
        started.set()
        async with server:
            await ended.wait()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(30)
    yield f"127.0.0.1:{port}", heads, answer
    assert loop is not None
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)


def test_each_client_keeps_its_http_connection(peer: tuple[str, list[bytes], dict[str, bytes]]) -> None:
    address, heads, _ = peer
    found, processor = load(Target(address, "/predict", [form("image", b"jpeg")], is_http=True), 3, 12)
    assert (len(found.latencies), found.answers, len(heads)) == (12, [b"ok"] * 12, 12)
    assert all(head.startswith(b"POST /predict HTTP/1.1\r\n") and BOUNDARY.encode() in head for head in heads)
    assert 0 < processor < 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "status 503: b'busy'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nok", "RemoteProtocolError"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
    ],
)
def test_a_failed_request_ends_the_load(peer: tuple[str, list[bytes], dict[str, bytes]], answer: bytes, message: str) -> None:
    peer[2]["bytes"] = answer
    with pytest.raises(ToolError, match=message):
        load(Target(peer[0], "/predict", [b"x"], is_http=True), 1, 2)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ToolError, match="ConnectionRefusedError"):
        load(Target("127.0.0.1:9", "/predict", [b"x"], is_http=True), 1, 1)
    with pytest.raises(ToolError, match=r"127\.0\.0\.1:9/a\.b/C"):
        load(Target("127.0.0.1:9", "/a.b/C", [b"x"], is_http=False), 1, 1)


RUNS = """
import os, sys, time
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {"image": numpy.zeros((1, 256, 256, 3), numpy.uint8), "size": numpy.array([[256, 256]])}
began = time.thread_time()
for _ in range(20):
    session.run(None, feeds)
print(os.getpid(), time.thread_time() - began)
if os.fork() == 0:
    session.run(None, feeds)
    print(os.getpid(), 0.0, flush=True)
    os._exit(0)
os.wait()
"""


def test_the_clock_adds_up_the_runs_of_each_process(tmp_path: Path) -> None:
    bundle = passes.write_bundle(tmp_path / "models")
    clock = tmp_path / "clock"
    clock.mkdir()
    environment = os.environ | {"PYTHONPATH": str(sides.HERE / "clock"), "RUN_CLOCK": str(clock), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUNS, bundle / passes.PLAIN], env=environment, capture_output=True, text=True, check=True
    )
    (parent, spent), (child, _) = (line.split() for line in done.stdout.split("\n")[:2])
    processor, wall, runs = SUMS.unpack((clock / parent).read_bytes())
    assert runs == 20
    assert 0.7 * float(spent) < processor <= float(spent)
    assert wall > 0
    assert SUMS.unpack((clock / child).read_bytes())[2] == 1
    side = sides.Side("a", os.getpid(), clock, Target("", "", [], is_http=True))
    assert side.model_seconds()[1] == 21


def test_without_its_variable_the_clock_changes_nothing() -> None:
    environment = os.environ | {"PYTHONPATH": str(sides.HERE / "clock")}
    code = "import onnxruntime; print(hasattr(onnxruntime.InferenceSession.run, '__wrapped__'))"
    environment.pop("RUN_CLOCK", None)
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def test_a_peers_work_fits_pictures_into_the_bundles_sizes(tmp_path: Path) -> None:
    settings = sides.settings_of(load_bundle(passes.write_bundle(tmp_path)), 2)
    assert settings.palette[:6] == [0, 0, 0, 0, 3, 232]
    work = Work(settings)
    samples = [work.read(picture(*size)) for size in ((320, 160), (160, 320), (300, 160), (20, 20))]
    assert [sample.feeds["image"].shape[:2] for sample in samples] == [(8, 16), (16, 8), (8, 16), (8, 8)]
    assert [sample.feeds["size"].tolist() for sample in samples] == [[8, 16], [16, 8], [8, 15], [8, 8]]
    assert not samples[2].feeds["image"][:, 15].any()
    together, alone = work.run([samples[0], samples[2]]), [work.run([sample])[0] for sample in (samples[0], samples[2])]
    assert all(np.array_equal(a, b) for pair in zip(together, alone, strict=True) for a, b in zip(*pair, strict=True))
    png, areas = work.drawn(alone[1], samples[2])
    with Image.open(io.BytesIO(png)) as image:
        assert (image.size, image.mode) == ((300, 160), "P")
    assert sum(each["share"] for each in areas) == pytest.approx(1)
    assert len(areas) == passes.CLASSES


def test_a_lying_picture_is_turned(tmp_path: Path) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (160, 320)).save(file, "JPEG", exif=exif)
    sample = Work(sides.settings_of(load_bundle(passes.write_bundle(tmp_path)), 2)).read(file.getvalue())
    assert (sample.size, sample.feeds["size"].tolist()) == ((320, 160), [8, 16])


def test_settings_are_read_back(tmp_path: Path) -> None:
    settings = Settings("a.onnx", "classification", [[32, 32]], False, ["a"], [], 2, 8, 2.5)
    (tmp_path / "settings.json").write_text(json.dumps(vars(settings)))
    assert Settings.read(tmp_path / "settings.json") == settings
    assert sides.with_batches(settings, 1, 0.0) == replace(settings, batch_size=1, wait_ms=0.0)


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "PACKAGES", {"LitServe": (str(tmp_path / "nonesuch.whl"),)})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolError, match=r"LitServe cannot be installed: .*nonesuch"):
        environments.interpreter("LitServe", tmp_path)


def test_a_peer_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sides, "interpreter", lambda _name: script)
    settings = Settings("a.onnx", "classification", [[32, 32]], False, ["a"], [])
    with pytest.raises(ToolError, match="did not start: no such module"), sides.peer(sides.BENTOML, settings, [b""]):
        pass


def result(ours: float, peers: float) -> Result:
    """Three rounds in which our server has the first rate and p99, and the peers have the second."""

    def cost(value: float) -> Cost:
        return Cost(value, 1.0, 100 / value, 2.0 + 1 / value, 2.0, 0.1, 4.0)

    rounds = {"attnserve": [cost(ours)] * 3, "LitServe": [cost(peers)] * 3, "BentoML": [cost(peers / 2)] * 3}
    return Result(
        "m", "classification", (32, 32), {"LitServe": {(8, 2): 1.0}}, {"LitServe": (8, 2.0), "BentoML": (1, 0)}, {64: rounds}
    )


def test_the_bars_are_ratios_to_the_better_peer() -> None:
    rate, p99 = report.rows(result(14.0, 10.0))
    assert (rate.value, rate.is_reached) == (Ratio(1.4, 1.4, 1.4), True)
    assert p99.value.median == pytest.approx(1 / 1.4)
    assert "14/s against 10 of LitServe" in rate.detail
    assert [row.is_reached for row in report.rows(result(9.0, 10.0))] == [False, False]
    segmentation = replace(result(14.0, 10.0), task="segmentation")
    outside, rate = report.rows(segmentation)
    assert outside.value.median == pytest.approx(10 / 14)
    assert [outside.is_reached, rate.is_reached] == [False, True]


def test_models_that_were_not_measured_now_keep_their_figures(tmp_path: Path) -> None:
    report.save(tmp_path, [result(14.0, 10.0), replace(result(9.0, 10.0), model="n")], 3)
    report.save(tmp_path, [result(15.0, 10.0)], 3)
    saved = json.loads((tmp_path / "bench-single-pass.json").read_text())
    assert [each["model"] for each in saved["models"]] == ["m", "n"]
    assert saved["models"][0]["rows"][0]["value"]["median"] == 1.5
    text = (tmp_path / "bench-single-pass.md").read_text()
    assert "LitServe: batches of 8, 2 ms, BentoML: one by one" in text
    assert text.count("| 64 | attnserve |") == 2


def test_agreement_is_the_share_of_equal_classes() -> None:
    assert agreement(["cat", "dog"], ["cat", "cat"]) == 0.5
    assert agreement([np.zeros((2, 2))], [np.eye(2)]) == 0.5
    assert agreement([np.zeros((2, 2))], [np.zeros((2, 3))]) == 0.0


def test_a_round_without_a_counted_run_is_an_error(peer: tuple[str, list[bytes], dict[str, bytes]], tmp_path: Path) -> None:
    """The clock's wrapper was not loaded in the server."""
    side = sides.Side(sides.OURS, os.getpid(), tmp_path, Target(peer[0], "/predict", [b"x"], is_http=True))
    with pytest.raises(ToolError, match="no run of the model was counted"):
        measure.one_round(side, 1, 2)


def test_the_part_runs_alone_and_needs_a_model() -> None:
    import typer

    from attnserve_loadtest.bench.__main__ import bench

    app = typer.Typer()
    app.command()(bench)
    for arguments, message in (
        (["--part", "single-pass", "--part", "wire"], "single-pass runs alone"),
        (["--part", "single-pass", "--point", "transformer"], "no single-pass model has 'transformer'"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
