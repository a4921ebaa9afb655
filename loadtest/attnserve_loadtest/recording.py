# SPDX-License-Identifier: Apache-2.0
"""What a load test measured, by event: latencies, and errors by status. Workers report to the master, which adds them up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attnserve_loadtest.histogram import Histogram

UNARY, STREAM, CAPTION, SEGMENT, CLASSIFY = "Translate", "TranslateStream", "Caption", "Segment", "ClassifyImage"
CLASSIFY_VIDEO, GENERATE = "ClassifyVideo", "GenerateImage"
KINDS = {
    "unary": ["TranslateUser"],
    "stream": ["TranslateStreamUser"],
    "both": ["TranslateUser", "TranslateStreamUser"],
    "caption": ["CaptionUser"],
    "segment": ["SegmentUser"],
    "classify": ["ClassifyUser"],
    "video": ["ClassifyVideoUser"],
    "generate": ["GenerateUser"],
    "images": ["CaptionUser", "SegmentUser", "ClassifyUser"],
    "mixed": ["TranslateUser", "TranslateStreamUser", "CaptionUser"],
}
"""User classes of each kind of load."""
FIRST_PIECE, BETWEEN_PIECES = "TranslateStream first piece", "TranslateStream between pieces"
REQUESTS = (UNARY, STREAM, CAPTION, SEGMENT, CLASSIFY, CLASSIFY_VIDEO, GENERATE)
"""Events that are whole requests, by the names of their methods; the others are parts of them."""
OUTSIDE = " outside the server"
"""Suffix of a request's name: its latency outside the server (client, gRPC, network)."""
LATE = " late start"
"""Suffix of a request's name: how long after its scheduled time it was sent."""


class Recorder:
    """Histograms and errors by event name; all times in milliseconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Removes all values."""
        self.histograms: dict[str, Histogram] = {}
        self.errors: dict[str, Counter[str]] = {}
        self.began_at = self.ended_at = self._clock()

    def add(self, name: str, value_ms: float) -> None:
        """Records the latency of a success."""
        self.histograms.setdefault(name, Histogram()).add(value_ms)
        self.ended_at = self._clock()

    def fail(self, name: str, status: str) -> None:
        """Records an error."""
        self.errors.setdefault(name, Counter())[status] += 1
        self.ended_at = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds from the beginning to the latest event."""
        return max(self.ended_at - self.began_at, 1e-9)

    def count(self, name: str) -> int:
        """Number of successful events of this name."""
        return self.histograms[name].count if name in self.histograms else 0

    def num_errors(self, name: str) -> int:
        """Number of failed events of this name."""
        return self.errors[name].total() if name in self.errors else 0

    def take(self) -> dict[str, Any]:
        """Returns what was recorded since the last call, for the master."""
        report = {
            "histograms": {name: each.to_dict() for name, each in self.histograms.items()},
            "errors": {name: dict(each) for name, each in self.errors.items()},
        }
        self.histograms, self.errors = {}, {}
        return report

    def merge(self, report: Mapping[str, Any]) -> None:
        """Adds a worker's report."""
        for name, values in report["histograms"].items():
            self.histograms.setdefault(name, Histogram()).merge(Histogram.from_dict(values))
        for name, counts in report["errors"].items():
            self.errors.setdefault(name, Counter()).update(counts)
        if report["histograms"] or report["errors"]:
            self.ended_at = self._clock()


RECORDER = Recorder()
"""The recording of this process."""
