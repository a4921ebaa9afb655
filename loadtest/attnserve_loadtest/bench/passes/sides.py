# SPDX-License-Identifier: Apache-2.0
"""The servers of both sides: how they start and end, and what they cost."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from attnserve.v1 import classification_pb2, manifest_pb2, segmentation_pb2
from attnserve_client.errors import ToolError
from attnserve_loadtest.bench.passes.client import Target, form
from attnserve_loadtest.bench.passes.clock.sitecustomize import FOLDER, SUMS
from attnserve_loadtest.bench.passes.environments import interpreter
from attnserve_loadtest.bench.passes.work import Settings
from attnserve_loadtest.bench.servers import address_of, server_process
from attnserve_loadtest.bench.trees import Tree
from attnserve_server.bundle.loader import Bundle

OURS, LITSERVE, BENTOML = "attnserve", "LitServe", "BentoML"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
_START_S, _STOP_S = 60.0, 5.0
_SEGMENT, _CLASSIFY = "/attnserve.v1.SegmentationService/Segment", "/attnserve.v1.ClassificationService/ClassifyImage"


@dataclass(frozen=True, slots=True)
class Side:
    """A running server.

    Attributes:
        name: :data:`OURS` or a peer.
        pid: of its first process.
        clock: folder of the sums of its runs.
        target: of requests.
    """

    name: str
    pid: int
    clock: Path
    target: Target

    def model_seconds(self) -> tuple[float, int]:
        """Processor time of all runs of the model so far, in seconds, and their number."""
        sums = [SUMS.unpack(path.read_bytes()) for path in self.clock.iterdir()]
        return sum(each[0] for each in sums), round(sum(each[2] for each in sums))

    def suspend(self) -> None:
        """Stops the processes of a peer: some poll while they have no request. Our server stays as it is: it checks its workers."""
        if self.name != OURS:
            for process in tree(self.pid):
                process.suspend()

    def resume(self) -> None:
        """Continues after :meth:`suspend`."""
        if self.name != OURS:
            for process in reversed(tree(self.pid)):
                process.resume()


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def settings_of(bundle: Bundle, workers: int) -> Settings:
    """What a peer needs to serve the plain graph of a bundle's variant."""
    manifest, single = bundle.manifest, bundle.manifest.single_pass
    colours = [label.colour for label in single.labels]
    return Settings(
        graph=str((bundle.folder / bundle.variant.passes[0].graph.file).resolve()),
        task="segmentation" if manifest.task == manifest_pb2.TASK_SEGMENTATION else "classification",
        sizes=[(size.width, size.height) for size in single.picture.sizes],
        is_padded=single.picture.fit == manifest_pb2.FIT_PAD,
        labels=[label.name for label in single.labels],
        palette=[colour >> shift & 255 for colour in colours for shift in (16, 8, 0)],
        workers=workers,
    )


@contextlib.contextmanager
def ours(bundle: Bundle, workers: int, pictures: Sequence[bytes]) -> Iterator[Side]:
    """Our server of one bundle, with its own batch size and window.

    Raises:
        ToolError: it does not start.
    """
    is_segmentation = bundle.manifest.task == manifest_pb2.TASK_SEGMENTATION
    kind = segmentation_pb2.SegmentRequest if is_segmentation else classification_pb2.ClassifyImageRequest
    bodies = [kind(image=picture).SerializeToString() for picture in pictures]
    with tempfile.TemporaryDirectory(prefix="attnserve-passes-") as name:
        models, clock = Path(name, "models"), Path(name, "clock")
        models.mkdir()
        clock.mkdir()
        (models / bundle.manifest.model_id).symlink_to(bundle.folder.resolve().parent, target_is_directory=True)
        environment = Tree.of(ROOT).environment()
        environment |= {FOLDER: str(clock), "PYTHONPATH": f"{HERE / 'clock'}{os.pathsep}{environment['PYTHONPATH']}"}
        with server_process(models, bundle.variant.name, "--workers", str(workers), environment=environment) as server:
            target = Target(address_of(server), _SEGMENT if is_segmentation else _CLASSIFY, bodies, is_http=False)
            yield Side(OURS, server.pid, clock, target)


@contextlib.contextmanager
def peer(name: str, settings: Settings, pictures: Sequence[bytes]) -> Iterator[Side]:
    """A peer's server.

    Raises:
        ToolError: it cannot be installed, or does not start; with the end of its log.
    """
    python = str(interpreter(name))
    with tempfile.TemporaryDirectory(prefix="attnserve-peer-") as folder:
        clock, log, file = Path(folder, "clock"), Path(folder, "log"), Path(folder, "settings.json")
        clock.mkdir()
        file.write_text(json.dumps(asdict(settings)), encoding="utf-8")
        address = f"127.0.0.1:{_free_port()}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(name, python, file, address),
                cwd=folder,
                env=_environment(folder, clock, file),
                stdout=output,
                stderr=output,
            )
        try:
            _wait_ready(process, f"http://{address}/{'health' if name == LITSERVE else 'readyz'}", log)
            field = "images" if name == BENTOML and settings.batch_size > 1 else "image"
            yield Side(
                name, process.pid, clock, Target(address, "/predict", [form(field, each) for each in pictures], is_http=True)
            )
        finally:
            _end(process)


def with_batches(settings: Settings, batch_size: int, wait_ms: float) -> Settings:
    """The same model with another batch size and wait."""
    return replace(settings, batch_size=batch_size, wait_ms=wait_ms)


def _command(name: str, python: str, file: Path, address: str) -> list[str]:
    host, _, port = address.partition(":")
    if name == LITSERVE:
        return [python, "-m", "attnserve_loadtest.bench.passes.litserve_app", str(file), port]
    app = "attnserve_loadtest.bench.passes.bentoml_app:Served"
    return [python, "-m", "bentoml", "serve", app, "--host", host, "--port", port]


def _environment(folder: str, clock: Path, file: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATTNSERVE_", "PYTHON"))}
    path = os.pathsep.join([str(HERE / "clock"), str(ROOT / "loadtest")])
    bento = {"PASSES_SETTINGS": str(file), "BENTOML_HOME": f"{folder}/bentoml", "BENTOML_DO_NOT_TRACK": "True"}
    return kept | bento | {"PYTHONPATH": path, FOLDER: str(clock), "OMP_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(OSError), opener.open(url, timeout=2):
            return
        if process.poll() is not None or time.monotonic() > until:
            raise ToolError(f"the peer did not start: {log.read_text(encoding='utf-8', errors='replace')[-500:]}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all below it, by force if they do not end in time."""
    if process.poll() is not None:
        return
    processes = tree(process.pid)
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.resume()
            each.terminate()
    for each in psutil.wait_procs(processes, _STOP_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
