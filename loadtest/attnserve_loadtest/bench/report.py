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
from attnserve_loadtest.bench.online import CLIENTS, LIMIT_MS, WORKERS, OnlineResult, WireResult
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
        unit: of the value; empty for a ratio.
    """

    name: str
    value: Ratio
    bar: float
    stretch: float
    is_at_most: bool
    detail: str
    unit: str = ""

    def text(self, number: float) -> str:
        """Returns a value as it is shown."""
        return f"{number:.0f} {self.unit}" if self.unit else f"{number:.2f}"

    @property
    def rounds(self) -> str:
        """The least and the greatest value, as they are shown."""
        return f"{self.text(self.value.least)}-{self.text(self.value.most)}"

    @property
    def is_reached(self) -> bool:
        """Whether the ratio reaches the bar."""
        return self.value.median <= self.bar if self.is_at_most else self.value.median >= self.bar


def point_row(result: PointResult) -> Row:
    """The row of an offline point: the peer's time over ours."""
    (ours, our_speed), (peer, peer_speed) = result.ours, result.peer
    detail = f"{our_speed:,.0f} tokens/s ({ours}) against {peer_speed:,.0f} ({peer}); {result.identical:.1%} of answers identical"
    detail += (
        f"; wall time {result.wall.median:.2f} ({result.wall.least:.2f}-{result.wall.most:.2f}){_attempts(result.num_attempts)}"
    )
    if result.bleu:
        detail += f"; BLEU {result.bleu['ours']:.2f} and {result.bleu['peer']:.2f}"
    return Row(result.point.name, result.ratio, result.point.bar, result.point.stretch, is_at_most=False, detail=detail)


def online_rows(result: OnlineResult) -> list[Row]:
    """The row of the runs at random arrivals: our highest rate over the peer's."""
    sides = []
    for side in (result.ours, result.peer):
        at = side.latency
        sides.append(
            f"{side.rate:.0f}/s" + (f" (p50 {at.p50:.1f} ms, p99 {at.p99:.1f} ms, client {at.client_us:.0f} us)" if at else "")
        )
    detail = f"{sides[0]} against {sides[1]}; {WORKERS} workers each, the peer's window {result.window_ms:g} ms"
    return [Row(f"highest rate with p99 <= {LIMIT_MS:g} ms, int8", result.ratio, 0.9, 1.1, is_at_most=False, detail=detail)]


def wire_rows(result: WireResult) -> list[Row]:
    """The rows of throughput through gRPC, over that in-process, and of the front's processor time."""
    inside = result.passages["in-process"]
    detail = f"{result.in_process:.0f} sentences/s in-process, {inside.worker_us:.0f} us of processor time each"
    detail += _attempts(result.num_attempts)
    beside = {
        name: f"worker {each.worker_us:.0f} us, client {each.client_us:.0f} us; {CLIENTS} in flight"
        for name, each in result.passages.items()
    }
    front = "front's processor time"
    return [
        Row("through gRPC, unary, int8", result.unary, 0.80, 0.95, is_at_most=False, detail=detail),
        Row("through gRPC, streaming, int8", result.streaming, 0.58, 0.7, is_at_most=False, detail=detail),
        Row(f"{front}, unary call", result.front_unary, 500, 350, is_at_most=True, detail=beside["unary"], unit="us"),
        Row(f"{front}, stream", result.front_streaming, 1000, 700, is_at_most=True, detail=beside["streaming"], unit="us"),
    ]


def _attempts(number: int) -> str:
    return f"; the steadiest of {number} measurements" if number > 1 else ""


def table(rows: Iterable[Row]) -> Table:
    """All rows, for a terminal."""
    title = "attnserve over CTranslate2" + (
        "" if bars_hold() else "; the bars are for AVX-512 with VNNI, which this processor lacks"
    )
    found = Table("point", "ratio", "rounds", "bar", "stretch", "", "figures", title=title)
    for row in rows:
        sign = "<=" if row.is_at_most else ">="
        mark = "[green]reached" if row.is_reached else "[red]missed"
        found.add_row(row.name, row.text(row.value.median), row.rounds, f"{sign} {row.bar:g}", f"{row.stretch:g}", mark, row.detail)
    return found


def markdown(rows: Iterable[Row]) -> str:
    """The same as a table of Markdown."""
    lines = ["| point | ratio | rounds | bar | figures |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        sign, value = "≤" if row.is_at_most else "≥", row.text(row.value.median)
        lines.append(f"| {row.name} | **{value}** | {row.rounds} | {sign} {row.bar:g} | {row.detail} |")
    return "\n".join(lines)


def _processor() -> dict[str, str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return dict(line.split(":", 1) for line in text.replace("\t", "").splitlines() if ":" in line)


def bars_hold() -> bool:
    """Whether the bars are meant for this processor."""
    return {"avx512f", "avx512_vnni"} <= set(_processor().get("flags", "").split())


def machine() -> dict[str, Any]:
    """The machine and the versions of the measurement."""
    facts, features = _processor(), ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    return {
        "processor": facts.get("model name", platform.processor()).strip(),
        "cores": os.cpu_count(),
        "features": [name for name in features if name in facts.get("flags", "").split()],
        "bars_hold": bars_hold(),
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
    rates = sorted(result.curve)
    for side, (name, color) in enumerate((("attnserve", _OURS), ("CTranslate2, dynamic batches", _PEER))):
        for percentile, style in (("p50", "-"), ("p99", "--")):
            values = [getattr(result.curve[rate][side], percentile) for rate in rates]
            axes.plot(rates, values, style, marker="o", color=color, label=f"{name}, {percentile}")
    axes.set_yscale("log")
    axes.set_xlabel("offered load, requests a second", color=_INK)
    axes.set_ylabel("latency, ms", color=_INK)
    axes.grid(color="#d9dee3", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path, dpi=110)
