# SPDX-License-Identifier: Apache-2.0
"""The alerts. Each has a section in ``RUNBOOK.md``.

Thresholds are for an objective of 99.9 % answers without a fault of the server, and 95 % within 2.5 seconds: change them to yours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploy.prometheus.recordings import BY, SLOW_S

OBJECTIVE = 0.999
"""Share of the requests that end without a fault of the server, over 30 days."""

SLOW_SHARE, QUEUE_S, EXHAUSTED_SHARE, LATE_SHARE = 0.05, 1.0, 0.05, 0.05
DEATHS = 2
"""Deaths of a server's workers in 15 minutes that are tolerated: one may be the system's, for want of memory."""

SILENCE_S = 15
"""Above ``engine.hang_seconds`` (10), at which the server itself kills a silent worker."""

EXPIRY_DAYS, EXPIRY_DAYS_CRITICAL = 14, 2
DESCRIPTORS, MEMORY, DEVICE_MEMORY = 0.8, 0.9, 0.95
SERVER = "job, namespace, instance"


@dataclass(frozen=True, slots=True)
class Condition:
    """Compares the value of an expression, which has one at all times, with a threshold."""

    value: str
    comparison: str

    def __str__(self) -> str:
        return f"{self.value} {self.comparison}" if "\n" not in self.value else f"({self.value})\n{self.comparison}"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule; it fires once one of the groups of conditions has held, as a whole, for ``hold``."""

    name: str
    any_of: tuple[tuple[Condition, ...], ...]
    hold: str
    severity: Literal["critical", "warning"]
    summary: str
    description: str

    @property
    def expression(self) -> str:
        """The whole expression."""
        groups = ["\nand ".join(map(str, group)) for group in self.any_of]
        return groups[0] if len(groups) == 1 else "\nor\n".join(f"({group})" for group in groups)


def when(value: str, comparison: str) -> tuple[tuple[Condition, ...], ...]:
    """Returns a single condition."""
    return ((Condition(value, comparison),),)


def burns(factor: float, *windows: str) -> tuple[Condition, ...]:
    """Returns the conditions that the error budget of 30 days is used ``factor`` times too fast, over all windows."""
    limit = f"> {factor * (1 - OBJECTIVE):.4g}"
    return tuple(Condition(f"attnserve:request_faults:ratio_rate{window}", limit) for window in windows)


FAULTS_TEXT = "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} end with INTERNAL, UNAVAILABLE or UNKNOWN."

ALERTS = (
    Alert(
        "AttnserveDown",
        when('max by (job, namespace, instance) (up{job=~".*attnserve.*"})', "== 0"),
        "2m",
        "critical",
        "{{ $labels.instance }} cannot be scraped",
        "Prometheus gets no metrics from {{ $labels.instance }}: nothing is known of this server.",
    ),
    Alert(
        "AttnserveFaultsFast",
        (burns(14.4, "1h", "5m"), burns(6, "6h", "30m")),
        "2m",
        "critical",
        "{{ $labels.model }} fails so often that the error budget is used up within days",
        FAULTS_TEXT,
    ),
    Alert(
        "AttnserveFaultsSlow",
        (burns(3, "1d", "2h"), burns(1, "3d", "6h")),
        "15m",
        "warning",
        "{{ $labels.model }} fails so often that the error budget is used up within the month",
        FAULTS_TEXT,
    ),
    Alert(
        "AttnserveSlow",
        when("attnserve:requests_slow:ratio_rate5m", f"> {SLOW_SHARE}"),
        "10m",
        "warning",
        "{{ $labels.model }} is slow",
        f"{{{{ $value | humanizePercentage }}}} of the requests for {{{{ $labels.model }}}} take more than {SLOW_S} s.",
    ),
    Alert(
        "AttnserveQueueLong",
        when("attnserve:queue_seconds:avg5m", f"> {QUEUE_S}"),
        "10m",
        "warning",
        "requests for {{ $labels.model }} wait",
        "The oldest waiting request for {{ $labels.model }} is {{ $value | humanizeDuration }} old on the average of five minutes.",
    ),
    Alert(
        "AttnserveResourceExhausted",
        when("attnserve:requests_exhausted:ratio_rate5m", f"> {EXHAUSTED_SHARE}"),
        "5m",
        "warning",
        "requests for {{ $labels.model }} are refused",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} end with RESOURCE_EXHAUSTED.",
    ),
    Alert(
        "AttnserveDeadlineExceeded",
        when("attnserve:requests_late:ratio_rate5m", f"> {LATE_SHARE}"),
        "5m",
        "warning",
        "requests for {{ $labels.model }} miss their deadline",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} end with DEADLINE_EXCEEDED.",
    ),
    Alert(
        "AttnserveWorkersDie",
        # An increase is extrapolated to the window's edges, so two deaths may count as a little more.
        when(f"sum by ({SERVER}) (increase(attnserve_worker_deaths_total[15m]))", f"> {DEATHS + 0.5}"),
        "0s",
        "warning",
        "workers of {{ $labels.instance }} die",
        '{{ $value | printf "%.0f" }} workers of {{ $labels.instance }} have died within 15 minutes.',
    ),
    Alert(
        "AttnserveWorkerMissing",
        when(
            f'sum by ({SERVER}) (attnserve_workers{{state="expected"}}) - sum by ({SERVER}) (attnserve_workers{{state="live"}})',
            "> 0",
        ),
        "5m",
        "warning",
        "{{ $labels.instance }} has too few workers",
        "{{ $value }} of the workers of {{ $labels.instance }} are missing, and cannot be started.",
    ),
    Alert(
        "AttnserveWorkerSilent",
        when(f"max by ({SERVER}, worker) (attnserve_worker_silence_seconds)", f"> {SILENCE_S}"),
        "30s",
        "critical",
        "{{ $labels.worker }} of {{ $labels.instance }} is silent",
        "{{ $labels.worker }} of {{ $labels.instance }} has work and has sent nothing for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "AttnserveModelNotReady",
        when(f"min by ({SERVER}, model, version) (attnserve_model_ready)", "< 1"),
        "5m",
        "critical",
        "{{ $labels.model }} is not ready on {{ $labels.instance }}",
        "No worker of {{ $labels.instance }} has {{ $labels.model }}, version {{ $labels.version }}: its requests are refused.",
    ),
    Alert(
        "AttnserveColdShapes",
        when(f"sum by ({BY}) (increase(attnserve_cold_shapes_total[15m]))", "> 0"),
        "0s",
        "warning",
        "{{ $labels.model }} runs shapes that were not warmed up",
        '{{ $value | printf "%.0f" }} steps of {{ $labels.model }} within 15 minutes had a shape that was not warmed up.',
    ),
    Alert(
        "AttnserveCertificateExpires",
        when(
            f"min by ({SERVER}, certificate) (attnserve_certificate_expiry_timestamp_seconds) - time()",
            f"< {EXPIRY_DAYS * 86400}",
        ),
        "1h",
        "warning",
        "the {{ $labels.certificate }} certificate of {{ $labels.instance }} expires soon",
        "The {{ $labels.certificate }} certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "AttnserveCertificateExpiresNow",
        when(
            f"min by ({SERVER}, certificate) (attnserve_certificate_expiry_timestamp_seconds) - time()",
            f"< {EXPIRY_DAYS_CRITICAL * 86400}",
        ),
        "5m",
        "critical",
        "the {{ $labels.certificate }} certificate of {{ $labels.instance }} expires within days, or has expired",
        "The {{ $labels.certificate }} certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "AttnserveDescriptorsRunOut",
        when(f"max by ({SERVER}, process) (attnserve_process_open_fds / attnserve_process_max_fds)", f"> {DESCRIPTORS}"),
        "5m",
        "warning",
        "{{ $labels.process }} of {{ $labels.instance }} is about to run out of descriptors",
        "{{ $labels.process }} of {{ $labels.instance }} has {{ $value | humanizePercentage }} of its descriptors open.",
    ),
    Alert(
        "AttnserveMemoryRunsOut",
        when(
            f"sum by ({SERVER}) (attnserve_process_resident_bytes) / sum by ({SERVER}) (attnserve_memory_limit_bytes)",
            f"> {MEMORY}",
        ),
        "5m",
        "warning",
        "{{ $labels.instance }} is about to run out of memory",
        "The processes of {{ $labels.instance }} use {{ $value | humanizePercentage }} of its memory.",
    ),
    Alert(
        "AttnserveDeviceMemoryRunsOut",
        when(
            f"max by ({SERVER}, device) (attnserve_device_memory_bytes / attnserve_device_memory_limit_bytes)",
            f"> {DEVICE_MEMORY}",
        ),
        "5m",
        "warning",
        "{{ $labels.device }} of {{ $labels.instance }} is about to run out of memory",
        "{{ $value | humanizePercentage }} of the memory of {{ $labels.device }} of {{ $labels.instance }} is in use.",
    ),
)
