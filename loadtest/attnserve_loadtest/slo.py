# SPDX-License-Identifier: Apache-2.0
"""Service level objectives of a load test, as short texts: "Translate:p99<250", "errors<0.1", "rate>100".

The form is ``[event:]measure<value`` or ``>``. Measures: ``p50`` to ``p99.99``, ``mean`` and ``max`` in milliseconds, ``errors`` in
percent, ``rate`` in successful events per second. Without an event it holds for every kind of request that was sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from attnserve_loadtest.recording import BETWEEN_PIECES, FIRST_PIECE, REQUESTS, Recorder

EVENTS = (*REQUESTS, FIRST_PIECE, BETWEEN_PIECES)
_FORM = re.compile(r"(?:(?P<event>[^:<>]+):)?\s*(?P<measure>[a-z0-9.]+)\s*(?P<sign>[<>])\s*(?P<value>[0-9.]+)(?:ms|%|/s)?")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective, parsed; ``text`` is its original form."""

    text: str
    events: tuple[str, ...]
    measure: str
    is_most: bool
    value: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The measured value of an objective; ``value`` is None if nothing was measured."""

    objective: Objective
    event: str
    value: float | None

    @property
    def is_met(self) -> bool:
        """Whether the objective was met; false if nothing was measured."""
        if self.value is None:
            return False
        return self.value < self.objective.value if self.objective.is_most else self.value > self.objective.value


def parse(text: str) -> Objective:
    """Reads an objective.

    Raises:
        ValueError: the text is not an objective; the message says why.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no objective: write [event:]measure<value, such as Translate:p99<250 or rate>100")
    event, measure = (found["event"] or "").strip(), found["measure"]
    if event and event not in EVENTS:
        raise ValueError(f"{text!r}: no event {event!r}; there are {', '.join(EVENTS)}")
    if measure not in ("mean", "max", "errors", "rate") and not _PERCENTILE.fullmatch(measure):
        raise ValueError(f"{text!r}: no measure {measure!r}; there are p50 to p99.99, mean, max, errors and rate")
    try:
        value = float(found["value"])
    except ValueError:
        raise ValueError(f"{text!r}: {found['value']!r} is no number") from None
    return Objective(text.strip(), (event,) if event else REQUESTS, measure, found["sign"] == "<", value)


def judge(objectives: list[Objective], recorder: Recorder) -> list[Verdict]:
    """The verdicts on all objectives; one without an event gives a verdict for each kind of request that was sent."""
    verdicts = []
    for objective in objectives:
        sent = [event for event in objective.events if recorder.count(event) + recorder.num_errors(event)]
        verdicts += [Verdict(objective, event, _measure(objective.measure, event, recorder)) for event in sent]
        if not sent:
            verdicts.append(Verdict(objective, objective.events[0], None))
    return verdicts


def _measure(measure: str, event: str, recorder: Recorder) -> float | None:
    good, bad = recorder.count(event), recorder.num_errors(event)
    if measure == "errors":
        return 100 * bad / (good + bad)
    if measure == "rate":
        return good / recorder.seconds
    if not good:
        return None
    histogram = recorder.histograms[event]
    if measure in ("mean", "max"):
        return histogram.mean if measure == "mean" else histogram.max
    return histogram.percentile(float(measure[1:]) / 100)
