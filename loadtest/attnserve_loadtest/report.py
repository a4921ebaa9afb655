# SPDX-License-Identifier: Apache-2.0
"""The report of a load test: percentiles of clients and server side by side, and the causes of differences."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnserve_loadtest.recording import BETWEEN_PIECES, LATE, OUTSIDE, Recorder
from attnserve_loadtest.server_side import METRICS, Quantile, Reading, difference, quantile
from attnserve_loadtest.slo import Verdict

SHARES = (0.5, 0.9, 0.95, 0.99)
TOLERANCE = 0.1
"""Relative difference of clients and server above which the report names a cause."""
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#27313b}
table{border-collapse:collapse;margin:.6rem 0 1.6rem}th,td{padding:.25rem .8rem .25rem 0;text-align:right}
tr{border-bottom:1px solid #d9dee3}
th:first-child,td:first-child,td.text{text-align:left}.bad{color:#c0392b;font-weight:600}.good{color:#1e8449;font-weight:600}"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A percentile as measured by the clients and by the server, in milliseconds.

    Attributes:
        event: what is timed.
        share: the percentile, between 0 and 1.
        client: measured by the clients.
        server: from the server's histogram, with the bounds of its bucket.
        reason: why they differ, where it is by more than :data:`TOLERANCE`.
    """

    event: str
    share: float
    client: float
    server: Quantile
    reason: str

    def __str__(self) -> str:
        """One line."""
        text = f"{self.event} p{100 * self.share:g}: {self.client:.2f} ms, by the server {self.server.value:.2f} ms"
        return f"{text}: {self.reason}" if self.reason else text


def compare(recorder: Recorder, before: Reading, after: Reading) -> list[Comparison]:
    """All percentiles that both sides measured."""
    found = []
    for event in METRICS:
        if not recorder.count(event):
            continue
        buckets = difference(before.buckets(event), after.buckets(event))
        for share in SHARES:
            server = quantile(buckets, share)
            if server is not None:
                client = recorder.histograms[event].percentile(share)
                found.append(Comparison(event, share, client, server, _reason(event, share, client, server, recorder)))
    return found


def _reason(event: str, share: float, client: float, server: Quantile, recorder: Recorder) -> str:
    """Names the cause of a difference: the first candidate that the measurements confirm."""
    if abs(client - server.value) <= TOLERANCE * max(client, server.value):
        return ""
    if server.low * (1 - TOLERANCE) <= client <= server.high * (1 + TOLERANCE):
        return f"the server's histogram says no more than {server.low:g} to {server.high:g} ms"
    request, _, part = event.partition(" ")
    parts = {
        "late starts": recorder.histograms.get(request + LATE),
        "client, gRPC and network (measured for each request)": recorder.histograms.get(request + OUTSIDE),
    }
    seen = {name: each.percentile(share) for name, each in parts.items() if each is not None and each.count}
    text = " and ".join(f"{value:.2f} ms of {name}" for name, value in seen.items())
    if event == BETWEEN_PIECES:
        return "both sides see how pieces are bundled on the way: the front joins what has piled up, the client what has arrived"
    if seen and server.low * (1 - TOLERANCE) <= client - sum(seen.values()) <= server.high * (1 + TOLERANCE):
        return f"{text} come on top"
    if part:
        return f"the server counts to the first decode step, of whole translations too; {text} at the same percentile"
    return f"not explained by one cause; {text} at the same percentile"


def save(folder: Path, recorder: Recorder, comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> None:
    """Writes ``loadtest.json``, ``loadtest.csv`` and ``loadtest.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(recorder)
    values = {
        "seconds": recorder.seconds,
        "events": rows,
        "errors": {name: dict(counts) for name, counts in recorder.errors.items()},
        "comparisons": [asdict(each) for each in comparisons],
        "objectives": [{"text": v.objective.text, "event": v.event, "value": v.value, "is_met": v.is_met} for v in verdicts],
    }
    (folder / "loadtest.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with (folder / "loadtest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(_row("", recorder)))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "loadtest.html").write_text(_page(rows, comparisons, verdicts, recorder), encoding="utf-8")


def _rows(recorder: Recorder) -> list[dict[str, Any]]:
    return [_row(name, recorder) for name in sorted({*recorder.histograms, *recorder.errors})]


def _row(name: str, recorder: Recorder) -> dict[str, Any]:
    histogram, good = recorder.histograms.get(name), recorder.count(name)
    percentiles = {f"p{100 * share:g}_ms": round(histogram.percentile(share), 3) if histogram else None for share in SHARES}
    return {
        "event": name,
        "count": good,
        "errors": recorder.num_errors(name),
        "per_second": round(good / recorder.seconds, 2),
        "mean_ms": round(histogram.mean, 3) if histogram else None,
        **percentiles,
        "max_ms": round(histogram.max, 3) if histogram else None,
    }


def _page(
    rows: Sequence[dict[str, Any]], comparisons: Sequence[Comparison], verdicts: Sequence[Verdict], recorder: Recorder
) -> str:
    parts = [f"<!doctype html><meta charset=utf-8><title>Load test</title><style>{_STYLE}</style><h1>Load test</h1>"]
    parts.append(f"<p>{recorder.seconds:.0f} seconds.</p>")
    if verdicts:
        judged = [
            (
                v.objective.text,
                v.event,
                _number(v.value),
                '<span class="good">met</span>' if v.is_met else '<span class="bad">missed</span>',
            )
            for v in verdicts
        ]
        parts.append("<h2>Objectives</h2>" + _table(("objective", "event", "measured", ""), judged))
    parts.append("<h2>As the clients saw it</h2>")
    parts.append(_table(tuple(rows[0]) if rows else ("event",), [tuple(map(_number, row.values())) for row in rows]))
    if recorder.errors:
        errors = [
            (html.escape(name), html.escape(status), count)
            for name, all_ in recorder.errors.items()
            for status, count in all_.items()
        ]
        parts.append("<h2>Errors</h2>" + _table(("event", "status", "count"), errors))
    if comparisons:
        sides = [
            (
                f"{each.event} p{100 * each.share:g}",
                f"{each.client:.2f}",
                f"{each.server.value:.2f}",
                f"{each.client / each.server.value:.2f}",
                each.reason,
            )
            for each in comparisons
        ]
        parts.append("<h2>Clients beside server</h2><p>Milliseconds; where they are more than a tenth apart, why.</p>")
        parts.append(_table(("percentile", "clients", "server", "ratio", "reason"), sides))
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{each}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else html.escape(str(value))
