# SPDX-License-Identifier: Apache-2.0
"""Statistics records, made by engines and workers; Prometheus is one consumer (``metrics/prometheus.py``)."""

from __future__ import annotations

import enum

import msgspec


class Measured(enum.Enum):
    """What an engine's reports hold beside the counts that all have."""

    STEPS = "decode steps over slots"
    RUNS = "runs of batches"


class StepStats(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """One iteration of an engine loop; durations in seconds."""

    num_rows: int
    """Live rows (hypotheses) of the decode step; 0 if only the encoder ran."""
    step_s: float
    """The decode step: graph run and search."""
    num_encoded: int = 0
    """Requests that were encoded and admitted in this iteration."""
    encode_s: float = 0.0
    """The encoder's run and the insertion of its outputs into the slots."""
    is_cold: bool = False
    """Whether a shape ran that warm-up did not cover."""


class RunStats(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """One run of a batch of a single-pass model; durations in seconds."""

    run_s: float
    """The graph's run, with the copies of its inputs and outputs."""
    window_s: list[float]
    """How long each request of the batch waited in the engine."""
    is_cold: bool = False
    """Whether a shape ran that warm-up did not cover."""


class EngineStats(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """A worker's report on one model's engine since its last report."""

    model: str
    version: str
    steps: list[StepStats]
    num_slots: int
    num_slots_used: int
    num_waiting: int
    busy_s: float
    """Time spent in iterations."""
    elapsed_s: float
    """Wall time that the report covers."""
    cancelled: dict[str, int] = {}
    """Requests dropped from queue or batch, by reason ("client", "deadline")."""
    runs: list[RunStats] = []
    """Of single-pass models, in place of steps."""


class RequestStats(msgspec.Struct):
    """One answered request; the intervals are defined in ``metrics/intervals.py``."""

    model: str
    version: str
    queue_s: float
    encode_s: float
    decode_s: float
    time_to_first_token_s: float
    num_source_tokens: int
    num_generated_tokens: int
    inter_token_s: list[float] = []
    """Gaps between consecutive deliveries of a streamed request."""
