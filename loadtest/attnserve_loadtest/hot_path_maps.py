# SPDX-License-Identifier: Apache-2.0
"""The attention hot path of a segmentation: latency by the number of attended cells, with maps in the answer and without.

A bundle gives each picture one of its own sizes, so the sweep serves copies of it from a temporary folder, each with one size. The
report also has the attention's share of a run, from ONNX Runtime's profile of the same run.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from attnserve.v1 import manifest_pb2
from attnserve_client.cli import output
from attnserve_client.cli.server import Server
from attnserve_client.client import Client
from attnserve_client.demo.server import DemoServer
from attnserve_loadtest.images import DEFAULT as PHOTOS
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.profiling.passes import PassWorkload, profile_pass

SIZES = ((320, 240), (480, 360), (640, 480), (800, 592), (960, 720))
"""Width and height of input and picture; multiples of a cell, except where a bundle has them too."""
CONCURRENCY = 4
NUM_QUERIES = 16
ATTENTION_PARTS = ("pairwise", "unary")
STEM = "hot-path-maps"


class Setting(NamedTuple):
    """Size of the input, and whether the answer has all maps."""

    width: int
    height: int
    has_maps: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A setting and its latencies.

    Attributes:
        width: of the input and of the picture.
        height: likewise.
        cells: attended positions.
        maps: "none", or "all": the unary map and the pairwise maps of 16 pixels.
        p50_ms: median latency of a request alone.
        p95_ms: its 95th percentile.
        loaded_p50_ms: median latency with :data:`CONCURRENCY` requests in flight, on one worker.
        run_ms: time of the model's run, without the server.
        pairwise_share: share of the pairwise attention in that run.
        unary_share: share of the unary attention in that run.
    """

    width: int
    height: int
    cells: int
    maps: str
    p50_ms: float
    p95_ms: float
    loaded_p50_ms: float
    run_ms: float
    pairwise_share: float
    unary_share: float


def find_segmentation(bundles: Sequence[Path]) -> Path | None:
    """The first bundle whose graphs take pictures of any size for segmentation; None if there is none."""
    for path in bundles:
        manifest = load_bundle(path).manifest
        if manifest.task == manifest_pb2.TASK_SEGMENTATION and len(manifest.single_pass.picture.sizes) > 1:
            return path
    return None


def run(bundle: Path, results: Path, *, is_quick: bool = False) -> list[Point]:
    """Serves a bundle in several sizes, sweeps, prints a table, and writes ``hot-path-maps.json``, ``.csv`` and ``.png``.

    Raises:
        AttnserveError: the server does not answer.
        ToolError: the server does not start.
    """
    sizes, repetitions, runs = (SIZES[:2], 3, 3) if is_quick else (SIZES, 12, 12)
    settings = [Setting(*size, has_maps) for has_maps in (False, True) for size in sizes]
    with tempfile.TemporaryDirectory(prefix="attnserve-sizes-") as name:
        folders = {size: copy_with_size(bundle, Path(name), size) for size in sizes}
        flags = ("--models", name, "--variant", "fp32", "--workers", "1", "--log-level", "warning")
        with DemoServer(flags) as server, output.progress("segmentation hot path", (repetitions + 2) * len(settings)) as advance:
            ports = server.wait_ready()
            with Server(f"127.0.0.1:{ports.grpc}").client() as client:
                latencies = _latencies(client, bundle.parent.name, (settings, repetitions), advance)
            points = []
            for setting in settings:
                loaded = load_bundle(folders[setting.width, setting.height], variant="fp32")
                points.append(_point(loaded, setting, latencies[setting], runs))
                advance()
    save(results, points)
    Console(width=None if Console().is_terminal else 130).print(table(points))
    print(f"segmentation hot path: {results / f'{STEM}.png'}")
    return points


def copy_with_size(bundle: Path, models: Path, size: tuple[int, int]) -> Path:
    """Copies a bundle into a repository, with one size of the input, which is also in its id."""
    model_id = _model_id(bundle.parent.name, size)
    folder = models / model_id / bundle.name
    shutil.copytree(bundle, folder)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["model_id"] = model_id
    manifest["single_pass"]["picture"]["sizes"] = [{"width": size[0], "height": size[1]}]
    file.write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _model_id(name: str, size: tuple[int, int]) -> str:
    return f"{name}-{size[0]}x{size[1]}"


def _latencies(
    client: Client, name: str, work: tuple[Sequence[Setting], int], advance: Callable[[], None]
) -> dict[Setting, tuple[list[float], list[float]]]:
    """Latencies in milliseconds of requests alone, and of :data:`CONCURRENCY` in flight; the settings are interleaved.

    Args:
        client: of the server.
        name: of the bundle that was copied.
        work: settings, and requests alone of each.
        advance: called after each request alone and after each load.
    """
    settings, repetitions = work
    pictures = {setting[:2]: _picture(setting[:2]) for setting in settings}

    def ask(setting: Setting) -> float:
        width, height, has_maps = setting
        queries = [((2 * index + 1) * width // (2 * NUM_QUERIES), height // 2) for index in range(NUM_QUERIES)] if has_maps else []
        began = time.perf_counter()
        client.segment(pictures[width, height], model=_model_id(name, (width, height)), return_unary=has_maps, queries=queries)
        return 1e3 * (time.perf_counter() - began)

    found: dict[Setting, tuple[list[float], list[float]]] = {setting: ([], []) for setting in settings}
    for _ in range(repetitions):
        for setting in settings:
            found[setting][0].append(ask(setting))
            advance()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for setting in settings:
            found[setting][1].extend(pool.map(lambda _, setting=setting: ask(setting), range(2 * CONCURRENCY)))
            advance()
    return found


def _picture(size: tuple[int, int]) -> bytes:
    """One of the project's photos as a JPEG file of a size."""
    with Image.open(min(PHOTOS.glob("*.jpg"))) as photo:
        scaled = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    scaled.save(file, "JPEG", quality=90)
    return file.getvalue()


def _point(bundle: Bundle, setting: Setting, latencies: tuple[list[float], list[float]], runs: int) -> Point:
    (width, height, has_maps), (alone, together) = setting, latencies
    profile = profile_pass(bundle, PassWorkload(1, (width, height), has_maps), runs)
    shares = {part.name: part.seconds / profile.node_seconds for part in profile.parts}
    cell = bundle.manifest.single_pass.picture.cell
    return Point(
        width,
        height,
        -(-width // cell) * -(-height // cell),
        "all" if has_maps else "none",
        statistics.median(alone),
        sorted(alone)[int(0.95 * (len(alone) - 1))],
        statistics.median(together),
        1e3 * profile.seconds,
        *(shares.get(name, 0.0) for name in ATTENTION_PARTS),
    )


def save(results: Path, points: Sequence[Point]) -> None:
    """Writes the points as JSON, CSV and a picture."""
    results.mkdir(parents=True, exist_ok=True)
    rows = [asdict(point) for point in points]
    (results / f"{STEM}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with (results / f"{STEM}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    save_plot(results / f"{STEM}.png", points)


def table(points: Sequence[Point]) -> Table:
    """All settings, for a terminal."""
    heads = ("maps", "input", "cells", "p50 ms", "p95 ms", f"p50 ms, {CONCURRENCY} at once", "run ms", *ATTENTION_PARTS)
    found = Table(*heads, title="segmentation hot path")
    for each in points:
        times = (each.p50_ms, each.p95_ms, each.loaded_p50_ms, each.run_ms)
        shares = (f"{each.pairwise_share:.1%}", f"{each.unary_share:.1%}")
        size = f"{each.width} × {each.height}"
        found.add_row(each.maps, size, str(each.cells), *(f"{time:.1f}" for time in times), *shares)
    return found


def save_plot(path: Path, points: Sequence[Point]) -> None:
    """Draws latency, and the attention's share of a run, over the attended cells."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for maps, color in (("none", "#2a9d8f"), ("all", "#e4572e")):
        line = [each for each in points if each.maps == maps]
        cells = [each.cells for each in line]
        left.plot(cells, [each.p50_ms for each in line], marker="o", color=color, label=f"request, maps {maps}")
        left.plot(cells, [each.run_ms for each in line], "--", color=color, label=f"run of the model, maps {maps}")
        shares = [100 * (each.pairwise_share + each.unary_share) for each in line]
        right.plot(cells, shares, marker="o", color=color, label=f"maps {maps}")
    for axes, title in ((left, "p50 of a request, ms"), (right, "attention's share of a run, percent")):
        axes.set_xlabel("attended cells")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(color="#d9dee3", linewidth=0.7)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
