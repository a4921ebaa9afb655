# SPDX-License-Identifier: Apache-2.0
"""The bars of the comparison with LitServe and BentoML; a table for each model, and everything as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnserve_loadtest.bench.passes.environments import PACKAGES
from attnserve_loadtest.bench.passes.measure import FULL, WORKERS, Batching, Cost, Result
from attnserve_loadtest.bench.report import Row, machine, markdown

_BARS = {
    "classification": (("rate", 1.3, False), ("p99", 1.0, True)),
    "segmentation": (("outside", 0.7, True), ("rate", 0.97, False)),
}
"""By task: measure, its bar as a ratio to the better peer, and whether less is better."""
_WORDS = {"rate": "throughput", "p99": "p99", "outside": "processor time outside the model"}
_UNITS = {"rate": "/s", "p99": " ms", "outside": " ms"}
_COLUMNS = ("rate", "p50", "p99", "processor", "model", "outside", "client", "batch")
_HEADS = "requests/s | p50 ms | p99 ms | server ms | model ms | outside ms | client ms | requests a run"


def rows(result: Result) -> list[Row]:
    """The bars of a model, at :data:`FULL` requests in flight."""
    found = []
    for measure, bar, is_less_better in _BARS[result.task]:
        peer = result.best_peer(FULL, measure, is_less_better=is_less_better)
        mine, theirs = (result.median(FULL, side, measure) for side in ("attnserve", peer))
        detail = f"{mine:.3g}{_UNITS[measure]} against {theirs:.3g} of {peer}"
        value = result.over_best(FULL, measure, is_less_better=is_less_better)
        found.append(Row(f"{result.model}, {_WORDS[measure]}", value, bar, bar, is_at_most=is_less_better, detail=detail))
    return found


def text(results: Sequence[Result]) -> str:
    """The bars, then medians of all rounds, as Markdown."""
    parts = [markdown([row for result in results for row in rows(result)])]
    for result in results:
        chosen = ", ".join(f"{peer}: {setting(value)}" for peer, value in result.chosen.items())
        size = f"{result.size[0]} × {result.size[1]}"
        lines = [f"**{result.model}**, JPEG files of {size} pixels, {WORKERS} workers; {chosen}", ""]
        lines += [f"| in flight | side | {_HEADS} |", "| --- " * (len(_COLUMNS) + 2) + "|"]
        for clients, by_side in result.rounds.items():
            for side in by_side:
                cells = " | ".join(f"{result.median(clients, side, measure):.3g}" for measure in _COLUMNS)
                lines.append(f"| {clients} | {side} | {cells} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def setting(batching: Batching) -> str:
    """A peer's batching in words."""
    size, wait = batching
    return "one by one" if size == 1 else f"batches of {size}" + (f", {wait:g} ms" if wait else "")


def save(folder: Path, results: Sequence[Result], num_rounds: int) -> None:
    """Writes ``bench-single-pass.json`` and ``.md`` into a folder; models that were not measured now keep their figures."""
    path = folder / "bench-single-pass.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else []
    new = [values(result, num_rounds) for result in results]
    kept = [each for each in kept if each["model"] not in {one["model"] for one in new}]
    models = sorted([*kept, *new], key=lambda each: str(each["model"]))
    path.write_text(json.dumps({"models": models}, indent=1) + "\n", encoding="utf-8")
    texts = "\n\n".join(str(each["markdown"]) for each in models)
    (folder / "bench-single-pass.md").write_text(texts + "\n", encoding="utf-8")


def values(result: Result, num_rounds: int) -> dict[str, Any]:
    """A model's figures with the machine that they were measured on."""
    return {
        "model": result.model,
        "machine": machine(),
        "peers": {peer: list(packages) for peer, packages in PACKAGES.items()},
        "workload": {"jpeg_size": result.size, "workers": WORKERS, "rounds": num_rounds},
        "sweep_requests_per_second": {
            peer: {setting(batching): rate for batching, rate in rates.items()} for peer, rates in result.sweep.items()
        },
        "chosen": {peer: setting(batching) for peer, batching in result.chosen.items()},
        "agreement": result.agreement,
        "rows": [dataclasses.asdict(row) | {"is_reached": row.is_reached} for row in rows(result)],
        "rounds": {
            str(clients): {side: [_cost(each) for each in costs] for side, costs in by_side.items()}
            for clients, by_side in result.rounds.items()
        },
        "markdown": text([result]),
    }


def _cost(cost: Cost) -> dict[str, float]:
    return {name: round(value, 4) for name, value in dataclasses.asdict(cost).items()}
