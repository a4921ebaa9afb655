# SPDX-License-Identifier: Apache-2.0
"""The report of a run: the clients' percentiles and the server's, side by side, and whether the objectives hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from locust.env import Environment
from rich.console import Console
from rich.table import Table

from attnserve_loadtest import recording
from attnserve_loadtest.server_side import Histogram
from attnserve_loadtest.slo import Measured, Objective

SHOWN = (50.0, 90.0, 95.0, 99.0)
NOTABLE = 0.1
"""Relative difference between client and server above which the report says so."""


def measured(environment: Environment, objectives: Iterable[Objective]) -> dict[str, Measured]:
    """What the clients saw of each kind of call."""
    wanted = sorted({*SHOWN, *(each.percentile for each in objectives if each.percentile is not None)})
    latencies = recording.of(environment).latencies
    found: dict[str, Measured] = {}
    for (name, _), entry in environment.stats.entries.items():
        times = latencies.get(name)
        percentiles = {each: times.percentile(each / 100) * 1e3 if times else 0.0 for each in wanted}
        mean_ms = times.mean * 1e3 if times else 0.0
        answers = (entry.num_requests - entry.num_failures) / max(1e-9, entry.last_request_timestamp - entry.start_time or 0.0)
        found[name] = Measured(percentiles, mean_ms, answers, entry.num_failures / max(1, entry.num_requests))
    return found


def as_json(
    found: Mapping[str, Measured], server: Mapping[str, Histogram], objectives: Iterable[Objective], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole report as plain values; latencies in milliseconds."""
    calls: dict[str, Any] = {}
    for name, each in found.items():
        on_server = server.get(name)
        calls[name] = {
            "client_ms": {f"p{key:g}": round(value, 3) for key, value in each.percentiles_ms.items()},
            "client_mean_ms": round(each.mean_ms, 3),
            "server_ms": {f"p{key:g}": round(on_server.percentile(key / 100) * 1e3, 3) for key in SHOWN} if on_server else None,
            "rate": round(each.rate, 2),
            "failures": round(each.failures, 5),
        }
    return {"settings": dict(settings), "calls": calls, "objectives": [_verdict(each, found) for each in objectives]}


def show(report: Mapping[str, Any]) -> None:
    """Prints the table and the verdicts."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("", "answers/s", "failures", *(f"p{each:g} client / server, ms" for each in SHOWN)):
        table.add_column(heading, justify="right" if heading else "left")
    for name, each in report["calls"].items():
        cells = []
        for key in (f"p{share:g}" for share in SHOWN):
            ours, theirs = each["client_ms"][key], (each["server_ms"] or {}).get(key)
            is_notable = theirs and abs(ours - theirs) > NOTABLE * ours
            cells.append(f"{ours:.2f} / {theirs:.2f}{' *' if is_notable else ''}" if theirs else f"{ours:.2f}")
        table.add_row(name, f"{each['rate']:.1f}", f"{each['failures']:.2%}", *cells)
    console.print(table)
    console.print(f"* client and server differ by more than {NOTABLE:.0%}", style="dim")
    for verdict in report["objectives"]:
        style = "green" if verdict["holds"] else "bold red"
        console.print(f"{'holds' if verdict['holds'] else 'FAILS'}  {verdict['objective']}  ({verdict['figure']:g})", style=style)


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Writes it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _verdict(objective: Objective, found: Mapping[str, Measured]) -> dict[str, Any]:
    if objective.name not in found:
        return {"objective": str(objective), "figure": float("nan"), "holds": False}
    figure = objective.figure(found[objective.name])
    return {"objective": str(objective), "figure": round(figure, 4), "holds": objective.holds(found[objective.name])}
