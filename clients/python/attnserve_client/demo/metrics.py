# SPDX-License-Identifier: Apache-2.0
"""Reads a few figures from Prometheus' text format; it is not a complete parser."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Returns labels and value of every sample of that exact name."""
    matches = (_SAMPLE.match(line) for line in text.splitlines())
    return [(dict(_LABEL.findall(m["labels"] or "")), float(m["value"])) for m in matches if m and m["name"] == name]


def summary(text: str) -> list[tuple[str, str]]:
    """Returns name and value of each figure that the demo shows: requests, generated tokens, rows in a step, images in a batch."""
    found: list[tuple[str, str]] = []
    for labels, value in samples(text, "attnserve_requests_total"):
        if value and labels.get("model"):
            found.append((f"requests, {labels['model']} {labels.get('method', '')} {labels.get('code', '')}", f"{value:.0f}"))
    tokens = sum(value for _, value in samples(text, "attnserve_generated_tokens_total"))
    steps, rows = (sum(value for _, value in samples(text, f"attnserve_batch_rows_{part}")) for part in ("count", "sum"))
    found.append(("tokens generated", f"{tokens:.0f}"))
    if steps:
        found += [("decode steps", f"{steps:.0f}"), ("rows per step, mean", f"{rows / steps:.2f}")]
    batches, requests = (sum(value for _, value in samples(text, f"attnserve_batch_size_{part}")) for part in ("count", "sum"))
    if batches:
        found += [("batches of images", f"{batches:.0f}"), ("images per batch, mean", f"{requests / batches:.2f}")]
    return found
