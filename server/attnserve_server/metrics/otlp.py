# SPDX-License-Identifier: Apache-2.0
"""Spans of requests, sent to an OTLP receiver over gRPC. The only module that imports OpenTelemetry; ``traces.py`` imports it.

A span is made at the end of its request from the times at hand. A thread of OpenTelemetry's SDK encodes and sends batches; its
queue is bounded. Spans that do not fit, or that the receiver does not take in time, are counted.

The span is made as a ``ReadableSpan``, which the SDK itself makes of a span that a tracer has ended. A tracer's span takes 69 µs
where this one takes 12, and its sampler would decide what is decided already.
"""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from attnserve_server import __version__
from attnserve_server.metrics.ended import Ended
from attnserve_server.metrics.trace_context import SpanRecorder, Trace

MAX_QUEUED = 4096
"""Spans that wait to be sent; further ones are dropped."""

BATCH = 512
"""Spans of one export call."""

DELAY_S = 2.0
"""Longest wait of a span for its export call."""

EXPORT_S = 5.0
"""Longest time that a batch is tried to be sent."""

LINES_S = 60.0
"""Time between two lines of the log about a receiver that takes nothing."""

LOGGER = "opentelemetry.exporter.otlp.proto.grpc.exporter"
ABORT_S = 0.5
"""Longest wait for an export that was cut short."""
_SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""Statuses with which a server's span is an error, by OpenTelemetry's conventions for gRPC."""
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"),
    *("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"),
    *("DATA_LOSS", "UNAUTHENTICATED"),
)
_NUMBERS = {name: number for number, name in enumerate(_CODES)}
"""Numbers of gRPC's statuses."""
_UNSET, _SAMPLED = Status(StatusCode.UNSET), TraceFlags(TraceFlags.SAMPLED)


class _Rarely(logging.Filter):
    """Keeps one record of an outage in a time: each batch that is not taken has several."""

    shown_at = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps an error, once every ``LINES_S``; no attempt that is repeated."""
        now = time.monotonic()
        if record.levelno < logging.ERROR or now - self.shown_at < LINES_S:
            return False
        self.shown_at = now
        return True


class _Counting(SpanExporter):
    """Counts what an exporter is given, and what becomes of it."""

    def __init__(self, exporter: OTLPSpanExporter, recorder: SpanRecorder) -> None:
        self._exporter, self._recorder = exporter, recorder
        self.num_taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch, within the exporter's time."""
        self.num_taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            (self._recorder.sent if result is SpanExportResult.SUCCESS else self._recorder.dropped)(len(spans))
        return result

    def shutdown(self) -> None:
        """Ends the exporter, and with it a call under way."""
        self._exporter.shutdown()


class OtlpSpans:
    """Makes and sends spans; see ``trace_context.Spans``. :meth:`add` belongs to one thread.

    Args:
        endpoint: "http://host:port", or "https://host:port" for TLS. Headers, certificates and compression are those of
            OpenTelemetry's variables (``OTEL_EXPORTER_OTLP_HEADERS`` …), and so are further attributes of the resource.
        recorder: counts spans.
    """

    def __init__(self, endpoint: str, recorder: SpanRecorder) -> None:
        self._recorder, self._num_offered = recorder, 0
        self._rarely = _Rarely()
        logging.getLogger(LOGGER).addFilter(self._rarely)
        self._exporter = _Counting(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S), recorder)
        self._processor = BatchSpanProcessor(self._exporter, MAX_QUEUED, DELAY_S * 1e3, BATCH)
        self._resource, self._scope = _resource(), InstrumentationScope("attnserve", __version__)

    def add(self, trace: Trace, ended: Ended) -> None:
        """Makes and queues the span of a request; it never waits."""
        if self._num_offered - self._exporter.num_taken >= MAX_QUEUED:
            self._recorder.dropped(1)
            return
        self._num_offered += 1
        offset_ns = time.time_ns() - time.monotonic_ns()
        span = ReadableSpan(
            "/".join(ended.name),
            SpanContext(trace.trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED),
            SpanContext(trace.trace_id, trace.parent_id, is_remote=True, trace_flags=_SAMPLED) if trace.parent_id else None,
            self._resource,
            _attributes(ended),
            [Event(event.name.lower(), timestamp=offset_ns + int(moment * 1e9)) for event, moment in ended.events()],
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, ended.reason) if ended.code in _SERVER_FAULTS else _UNSET,
            start_time=offset_ns + int(ended.received_at * 1e9),
            end_time=offset_ns + int(ended.ended_at * 1e9),
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(span)

    def close(self, timeout_s: float) -> None:
        """Sends what is queued, within ``timeout_s``, and ends. Blocks."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            self._exporter.shutdown()
            ending.join(ABORT_S)
        logging.getLogger(LOGGER).removeFilter(self._rarely)


def _resource() -> Resource:
    """Returns what sends the spans; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` come first."""
    own = Resource(
        {
            "service.name": "attnserve",
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    return own.merge(OTELResourceDetector().detect())


def _attributes(ended: Ended) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.service": ended.name.service,
        "rpc.method": ended.name.method,
        "rpc.grpc.status_code": _NUMBERS[ended.code],
        "attnserve.request_id": ended.request_id,
    }
    if ended.reason != "-":
        found["attnserve.reason"] = ended.reason
    if ended.task:
        found |= {"attnserve.model": ended.model[0], "attnserve.model_version": ended.model[1], "attnserve.task": ended.task}
    if ended.num_parts:
        found |= {
            "attnserve.parts": ended.num_parts,
            "attnserve.rows": ended.num_rows,
            "attnserve.source_tokens": ended.num_source,
            "attnserve.generated_tokens": ended.num_generated,
        }
    return found
