# SPDX-License-Identifier: Apache-2.0
"""The measured ratios and their bars: a table, JSON, and a plot of latency against offered load."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from attnserve_loadtest.bench.offline import PointResult
from attnserve_loadtest.bench.online import OnlineResult, WireResult
from attnserve_loadtest.bench.rounds import Ratio

_INK, _OURS, _PEER = "#27313b", "#2a9d8f", "#e4572e"


@dataclass(frozen=True, slots=True)
class Row:
    """A ratio against its bar.

    Attributes:
        name: what was measured.
        value: the ratio.
        bar: what it must reach.
        stretch: what it should reach.
        is_at_most: whether less is better.
        detail: figures beside it, in words.
    """

    name: str
    value: Ratio
    bar: float
    stretch: float
    is_at_most: bool
    detail: str

    @property
    def is_reached(self) -> bool:
        """Whether the ratio reaches the bar."""
        return self.value.median <= self.bar if self.is_at_most else self.value.median >= self.bar


def point_row(result: PointResult) -> Row:
    """The row of an offline point: the peer's time over ours."""
    (ours, our_speed), (peer, peer_speed) = result.ours, result.peer
    detail = f"{our_speed:,.0f} tokens/s ({ours}) against {peer_speed:,.0f} ({peer}); {result.identical:.1%} of answers identical"
    if result.bleu:
        detail += f"; BLEU {result.bleu['ours']:.2f} and {result.bleu['peer']:.2f}"
    return Row(result.point.name, result.ratio, result.point.bar, result.point.stretch, is_at_most=False, detail=detail)


def online_rows(result: OnlineResult) -> list[Row]:
    """The rows of the run at random arrivals: our latency over the peer's."""
    what = f"{result.num_requests:,} requests at {result.rate:.0f} a second, the peer's window {result.window_ms:g} ms"
    return [
        Row(f"online, {name}", value, bar, stretch, is_at_most=True, detail=f"{ours:.1f} ms against {peer:.1f}; {what}")
        for name, value, bar, stretch, ours, peer in (
            ("p50", result.p50, 0.8, 0.4, result.ours.p50, result.peer.p50),
            ("p99", result.p99, 1.1, 0.6, result.ours.p99, result.peer.p99),
        )
    ]


def wire_rows(result: WireResult) -> list[Row]:
    """The rows of throughput through gRPC, over that in-process."""
    detail = f"{result.in_process:.0f} sentences/s in-process"
    return [
        Row("through gRPC, unary, int8", result.unary, 0.80, 0.95, is_at_most=False, detail=detail),
        Row("through gRPC, streaming, int8", result.streaming, 0.55, 0.8, is_at_most=False, detail=detail),
    ]


def table(rows: Iterable[Row]) -> Table:
    """All rows, for a terminal."""
    found = Table("point", "ratio", "rounds", "bar", "stretch", "", "figures", title="attnserve over CTranslate2")
    for row in rows:
        sign = "<=" if row.is_at_most else ">="
        mark = "[green]reached" if row.is_reached else "[red]missed"
        rounds = f"{row.value.least:.2f}-{row.value.most:.2f}"
        found.add_row(row.name, f"{row.value.median:.2f}", rounds, f"{sign} {row.bar:g}", f"{row.stretch:g}", mark, row.detail)
    return found


def markdown(rows: Iterable[Row]) -> str:
    """The same as a table of Markdown."""
    lines = ["| point | ratio | rounds | bar | figures |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        sign, rounds = "≤" if row.is_at_most else "≥", f"{row.value.least:.2f}-{row.value.most:.2f}"
        lines.append(f"| {row.name} | **{row.value.median:.2f}** | {rounds} | {sign} {row.bar:g} | {row.detail} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The machine and the versions of the measurement."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    facts = dict(line.split(":", 1) for line in text.replace("\t", "").splitlines() if ":" in line)
    features = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    return {
        "processor": facts.get("model name", platform.processor()).strip(),
        "cores": os.cpu_count(),
        "features": [name for name in features if name in facts.get("flags", "").split()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("onnxruntime", "ctranslate2", "numpy", "grpcio")},
    }


def save_json(
    path: Path,
    rows: Sequence[Row],
    points: Sequence[PointResult],
    online: OnlineResult | None,
    wire: WireResult | None,
    workload: dict[str, Any],
) -> None:
    """Writes everything that was measured."""
    values = {
        "machine": machine(),
        "workload": workload,
        "rows": [dataclasses.asdict(row) | {"is_reached": row.is_reached} for row in rows],
        "points": [dataclasses.asdict(point) for point in points],
        "online": dataclasses.asdict(online) if online else None,
        "wire": dataclasses.asdict(wire) if wire else None,
    }
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def save_plot(path: Path, result: OnlineResult) -> None:
    """Draws latency against offered load, of both sides."""
    figure = Figure(figsize=(7.5, 3.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = sorted(result.curve)
    for side, (name, color) in enumerate((("attnserve", _OURS), ("CTranslate2, dynamic batches", _PEER))):
        for percentile, style in (("p50", "-"), ("p99", "--")):
            values = [getattr(result.curve[share][side], percentile) for share in shares]
            axes.plot([100 * share for share in shares], values, style, marker="o", color=color, label=f"{name}, {percentile}")
    axes.set_yscale("log")
    axes.set_xlabel("offered load, percent of CTranslate2's offline throughput", color=_INK)
    axes.set_ylabel("latency, ms", color=_INK)
    axes.grid(color="#d9dee3", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path, dpi=110)
