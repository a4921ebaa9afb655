# SPDX-License-Identifier: Apache-2.0
"""The attention hot path: latency of a translation by attended length, with attention in the answer and without.

All requests have the same number of target pieces, so that only the source differs. The report also has the share of self-attention
and cross-attention in a decode step, from ONNX Runtime's profile of the same step.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from attnserve_client.cli import output
from attnserve_client.cli.server import Server
from attnserve_client.client import Client
from attnserve_client.errors import ToolError
from attnserve_client.options import AttentionDetail
from attnserve_client.security import Security
from attnserve_loadtest import texts
from attnserve_server.bundle.loader import Bundle, find_bundles, load_bundle
from attnserve_server.profiling.measure import Workload, profile_step

SOURCE_PIECES = (4, 8, 16, 32, 64, 128)
ATTENTION: tuple[AttentionDetail, ...] = ("none", "mean", "all")
BEAMS = (1, 4)
TARGET_PIECES = 24
CONCURRENCY = 8
MODELS = Path(__file__).resolve().parents[2] / "deploy" / "models"
ATTENTION_PARTS = ("self-attention", "cross-attention")
Setting = tuple[int, AttentionDetail, int]
"""Source pieces, attention, beam size."""


@dataclass(frozen=True, slots=True)
class Point:
    """A setting and its latencies.

    Attributes:
        source_pieces: of each request, the end symbol included.
        attention: the ``return_attention`` of each request.
        beam_size: of each request.
        p50_ms: median latency of a request alone.
        p95_ms: its 95th percentile.
        loaded_p50_ms: median latency with :data:`CONCURRENCY` requests in flight.
        step_ms: time of a step of one request, from the profile.
        self_share: share of self-attention in that step.
        cross_share: share of cross-attention in that step.
    """

    source_pieces: int
    attention: AttentionDetail
    beam_size: int
    p50_ms: float
    p95_ms: float
    loaded_p50_ms: float
    step_ms: float
    self_share: float
    cross_share: float


def run(address: str, results: Path, *, is_quick: bool = False, security: Security = Security()) -> list[Point]:  # noqa: B008 - frozen
    """Sweeps, prints a table, and writes ``hot-path.json``, ``.csv`` and ``.png``.

    Raises:
        AttnserveError: the server does not answer.
        ToolError: its model is not in this checkout, or its vocabulary lacks the texts' words.
    """
    lengths, repetitions, runs = ((4, 32), 4, 20) if is_quick else (SOURCE_PIECES, 20, 100)
    settings: list[Setting] = [(length, attention, beam) for beam in BEAMS for attention in ATTENTION for length in lengths]
    points = []
    with (
        Server(address, security).client() as client,
        output.progress("attention hot path", (repetitions + 2) * len(settings)) as advance,
    ):
        served = client.get_model("").manifest
        bundle = load_bundle(_folder_of(served.model_id))
        latencies = _latencies(client, settings, repetitions, advance)
        for setting in settings:
            points.append(_point(bundle, setting, latencies[setting], runs))
            advance()
    results.mkdir(parents=True, exist_ok=True)
    rows = [asdict(point) for point in points]
    (results / "hot-path.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with (results / "hot-path.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    save_plot(results / "hot-path.png", points)
    Console(width=None if Console().is_terminal else 120).print(table(points))
    print(f"hot path: {results / 'hot-path.png'}")
    return points


def _folder_of(model_id: str) -> Path:
    """The bundle whose steps are profiled: the one that the server serves, in this checkout."""
    found = [path for path in find_bundles(MODELS) if path.parent.name == model_id]
    if not found:
        raise ToolError(f"the server's model {model_id} is not in {MODELS}: its steps cannot be profiled here")
    return max(found, key=lambda path: int(path.name))


def _latencies(
    client: Client, settings: Sequence[Setting], repetitions: int, advance: Callable[[], None]
) -> dict[Setting, tuple[list[float], list[float]]]:
    """Latencies in milliseconds of requests alone, and of :data:`CONCURRENCY` in flight.

    The settings are interleaved, so that a slow phase of the machine affects all of them.
    """
    found: dict[Setting, tuple[list[float], list[float]]] = {setting: ([], []) for setting in settings}
    for _ in range(repetitions):
        for setting in settings:
            found[setting][0].append(_ask(client, setting))
            advance()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for setting in settings:
            found[setting][1].extend(pool.map(lambda _, setting=setting: _ask(client, setting), range(2 * CONCURRENCY)))
            advance()
    return found


def _ask(client: Client, setting: Setting) -> float:
    length, attention, beam = setting
    began = time.perf_counter()
    answer = client.translate(
        texts.of_length(length - 1),
        beam_size=beam,
        min_tokens=TARGET_PIECES,
        max_tokens=TARGET_PIECES,
        return_attention=attention,
    )
    took = 1e3 * (time.perf_counter() - began)
    if len(answer.source_pieces) != length:
        raise ToolError(f"a text of {length - 1} common words has {len(answer.source_pieces)} pieces in this model, not {length}")
    return took


def _point(bundle: Bundle, setting: Setting, latencies: tuple[list[float], list[float]], runs: int) -> Point:
    (length, attention, beam), (alone, together) = setting, latencies
    profile = profile_step(bundle, Workload(beam, beam, length, TARGET_PIECES // 2, attention != "none"), runs)
    shares = {part.name: part.seconds / profile.node_seconds for part in profile.parts}
    return Point(
        length,
        attention,
        beam,
        statistics.median(alone),
        sorted(alone)[int(0.95 * (len(alone) - 1))],
        statistics.median(together),
        1e3 * profile.seconds,
        *(shares.get(name, 0.0) for name in ATTENTION_PARTS),
    )


def table(points: Sequence[Point]) -> Table:
    """All settings, for a terminal."""
    heads = ("beam", "attention", "source pieces", "p50 ms", "p95 ms", f"p50 ms, {CONCURRENCY} at once", "step ms", "self", "cross")
    found = Table(*heads, title=f"attention hot path: {TARGET_PIECES} target pieces a request")
    for each in points:
        times = (each.p50_ms, each.p95_ms, each.loaded_p50_ms, each.step_ms)
        shares = (f"{each.self_share:.0%}", f"{each.cross_share:.0%}")
        found.add_row(str(each.beam_size), each.attention, str(each.source_pieces), *(f"{time:.2f}" for time in times), *shares)
    return found


def save_plot(path: Path, points: Sequence[Point]) -> None:
    """Draws latency and attention's share of a step over the attended length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colors = {"none": "#2a9d8f", "mean": "#4a6fd4", "all": "#e4572e"}
    for beam, style in zip(BEAMS, ("-", "--"), strict=True):
        for attention in ATTENTION:
            line = [each for each in points if (each.beam_size, each.attention) == (beam, attention)]
            lengths = [each.source_pieces for each in line]
            label, color = f"beam {beam}, attention {attention}", colors[attention]
            left.plot(lengths, [each.p50_ms for each in line], style, marker="o", color=color, label=label)
            shares = [100 * (each.self_share + each.cross_share) for each in line]
            right.plot(lengths, shares, style, marker="o", color=color, label=label)
    for axes, title in (
        (left, f"p50 of a request of {TARGET_PIECES} target pieces, ms"),
        (right, "attention's share of a step, percent"),
    ):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("source pieces")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(color="#d9dee3", linewidth=0.7)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
