# SPDX-License-Identifier: Apache-2.0
"""For each alert: samples of a case that makes it fire and then clear, and of one that comes close and does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DAY = 1440
"""Minutes."""

Series = Mapping[str, list[float]]
"""Values by series, one each minute."""

SERVER = {"job": "attnserve", "instance": "a:8002"}
M = {"job": "attnserve", "model": "m"}


@dataclass(frozen=True)
class Case:
    """Minutes count from the first sample."""

    alert: str
    fires: Series
    at: int
    """A minute at which it fires."""
    clears_at: int
    labels: Mapping[str, str]
    summary: str
    description: str
    close: Series
    """Samples that are close to the threshold, or above it for too short a time."""
    severity: str = "warning"


def gauge(*parts: tuple[int, float]) -> list[float]:
    """So many minutes of each value."""
    return [value for minutes, value in parts for _ in range(minutes)]


def counter(*parts: tuple[int, float]) -> list[float]:
    """So many minutes of each growth per minute, from 0."""
    values = [0.0]
    for minutes, growth in parts:
        for _ in range(minutes):
            values.append(values[-1] + growth)
    return values


def named(name: str, **labels: str) -> str:
    """A series of the server."""
    inner = ", ".join(f'{label}="{value}"' for label, value in {**SERVER, **labels}.items())
    return f"{name}{{{inner}}}"


def requests(code: str) -> str:
    """The count of a model's requests with a status."""
    return named("attnserve_requests_total", model="m", method="Translate", code=code)


def statuses(code: str, *parts: tuple[int, float]) -> Series:
    """A request a second that is answered, and so many with another status."""
    minutes = sum(length for length, _ in parts)
    return {requests("OK"): counter((minutes, 60)), requests(code): counter(*parts)}


def durations(slow: tuple[tuple[int, float], ...], refused: float = 0) -> Series:
    """A request a second that is not refused, some of them slow, and refusals per minute."""
    minutes, labels = sum(length for length, _ in slow), {"model": "m", "version": "1"}
    quick = counter(*((length, 60 + refused - number) for length, number in slow))
    name = "attnserve_request_duration_seconds"
    series = {
        named(f"{name}_count", **labels, method="Translate"): counter((minutes, 60 + refused)),
        named(f"{name}_bucket", **labels, method="Translate", le="2.5"): quick,
    }
    if refused:
        name = "attnserve_refusal_duration_seconds_count"
        series[named(name, **labels, reason="overloaded")] = counter((minutes, refused))
    return series


def queue(*parts: tuple[int, float]) -> Series:
    return {named("attnserve_queue_seconds", model="m", version="1"): gauge(*parts)}


def deaths(*parts: tuple[int, float]) -> Series:
    return {named("attnserve_worker_deaths_total", worker="worker-0"): counter(*parts)}


def workers(*live: tuple[int, float]) -> Series:
    name, minutes = "attnserve_workers", sum(length for length, _ in live)
    return {named(name, state="live"): gauge(*live), named(name, state="expected"): gauge((minutes, 2))}


def silence(*values: float) -> Series:
    return {named("attnserve_worker_silence_seconds", worker="worker-1"): list(values)}


def readiness(*parts: tuple[int, float]) -> Series:
    return {named("attnserve_model_ready", model="m", version="1"): gauge(*parts)}


def cold(*parts: tuple[int, float]) -> Series:
    return {named("attnserve_cold_shapes_total", model="m", version="1"): counter(*parts)}


def expiry(*parts: tuple[int, float]) -> Series:
    return {named("attnserve_certificate_expiry_timestamp_seconds", certificate="server"): gauge(*parts)}


def descriptors(*parts: tuple[int, float]) -> Series:
    minutes, name = sum(length for length, _ in parts), "attnserve_process"
    return {
        named(f"{name}_open_fds", process="front"): gauge(*parts),
        named(f"{name}_max_fds", process="front"): gauge((minutes, 1000)),
    }


def memory(*worker: tuple[int, float]) -> Series:
    """Gigabytes of a worker, beside a front of one, out of ten."""
    minutes, name = sum(length for length, _ in worker), "attnserve_process_resident_bytes"
    return {
        named(name, process="front"): gauge((minutes, 1e9)),
        named(name, process="worker-0"): gauge(*((length, value * 1e9) for length, value in worker)),
        named("attnserve_memory_limit_bytes"): gauge((minutes, 1e10)),
    }


def device(*used: tuple[int, float]) -> Series:
    minutes, name = sum(length for length, _ in used), "attnserve_device_memory"
    return {
        named(f"{name}_bytes", device="cuda:0"): gauge(*((length, value * 1e9) for length, value in used)),
        named(f"{name}_limit_bytes", device="cuda:0"): gauge((minutes, 1e11)),
    }


CASES = (
    Case(
        "AttnserveDown",
        {named("up"): gauge((10, 1), (10, 0), (20, 1))},
        13,
        25,
        SERVER,
        "a:8002 cannot be scraped",
        "Prometheus gets no metrics from a:8002: nothing is known of this server.",
        {named("up"): gauge((10, 1), (1, 0), (20, 1))},
        "critical",
    ),
    Case(
        "AttnserveFaultsFast",
        statuses("INTERNAL", (20, 0), (80, 3), (60, 0)),
        95,  # the last hour has the same ratio as half a minute before: alerts may be evaluated before the recorded rates of that time
        140,
        M,
        "m fails so often that the error budget is used up within days",
        "4.762% of the requests for m end with INTERNAL, UNAVAILABLE or UNKNOWN.",
        statuses("UNAVAILABLE", (200, 0.3)),
        "critical",
    ),
    Case(
        "AttnserveFaultsSlow",
        statuses("UNKNOWN", (60, 0.3), (360, 0)),
        60,
        400,
        M,
        "m fails so often that the error budget is used up within the month",
        "0.4975% of the requests for m end with INTERNAL, UNAVAILABLE or UNKNOWN.",
        statuses("INTERNAL", (400, 0.05)),
    ),
    Case(
        "AttnserveSlow",
        durations(((10, 0), (30, 6), (30, 0)), refused=60),
        30,
        60,
        M,
        "m is slow",
        "10% of the requests for m take more than 2.5 s.",
        durations(((60, 2.9),)),
    ),
    Case(
        "AttnserveQueueLong",
        queue((10, 0), (20, 3), (30, 0)),
        25,
        45,
        M,
        "requests for m wait",
        "The oldest waiting request for m is 3s old on the average of five minutes.",
        queue((10, 0), (1, 9), (29, 0.9)),
    ),
    Case(
        "AttnserveResourceExhausted",
        statuses("RESOURCE_EXHAUSTED", (10, 0), (20, 20), (30, 0)),
        25,
        50,
        M,
        "requests for m are refused",
        "25% of the requests for m end with RESOURCE_EXHAUSTED.",
        statuses("RESOURCE_EXHAUSTED", (60, 3)),
    ),
    Case(
        "AttnserveDeadlineExceeded",
        statuses("DEADLINE_EXCEEDED", (10, 0), (20, 20), (30, 0)),
        25,
        50,
        M,
        "requests for m miss their deadline",
        "25% of the requests for m end with DEADLINE_EXCEEDED.",
        statuses("DEADLINE_EXCEEDED", (60, 3)),
    ),
    Case(
        "AttnserveWorkersDie",
        deaths((20, 0), (3, 1), (30, 0)),
        25,
        45,
        SERVER,
        "workers of a:8002 die",
        "3 workers of a:8002 have died within 15 minutes.",
        deaths((20, 0), (2, 1), (30, 0)),
    ),
    Case(
        "AttnserveWorkerMissing",
        workers((10, 2), (20, 1), (10, 2)),
        20,
        35,
        SERVER,
        "a:8002 has too few workers",
        "1 of the workers of a:8002 are missing, and cannot be started.",
        workers((10, 2), (4, 1), (20, 2)),
    ),
    Case(
        "AttnserveWorkerSilent",
        silence(*gauge((10, 0)), 20, 80, 140, 200, *gauge((10, 0))),
        12,
        20,
        {**SERVER, "worker": "worker-1"},
        "worker-1 of a:8002 is silent",
        "worker-1 of a:8002 has work and has sent nothing for 2m 20s.",
        silence(*gauge((10, 0), (20, 11))),
        "critical",
    ),
    Case(
        "AttnserveModelNotReady",
        readiness((10, 1), (20, 0), (10, 1)),
        20,
        35,
        {**SERVER, "model": "m", "version": "1"},
        "m is not ready on a:8002",
        "No worker of a:8002 has m, version 1: its requests are refused.",
        readiness((4, 0), (30, 1)),
        "critical",
    ),
    Case(
        "AttnserveColdShapes",
        cold((20, 0), (1, 4), (30, 0)),
        25,
        45,
        M,
        "m runs shapes that were not warmed up",
        "4 steps of m within 15 minutes had a shape that was not warmed up.",
        {series: [value + 100 for value in values] for series, values in cold((60, 0)).items()},
    ),
    Case(
        "AttnserveCertificateExpires",
        expiry((180, 14 * 86400 + 3600), (60, 90 * 86400)),
        130,
        190,
        {**SERVER, "certificate": "server"},
        "the server certificate of a:8002 expires soon",
        "The server certificate of a:8002 expires in 13d 22h 50m 0s.",
        expiry((240, 15 * 86400)),
    ),
    Case(
        "AttnserveCertificateExpiresNow",
        expiry((30, 2 * 86400 + 600), (30, 90 * 86400)),
        16,
        40,
        {**SERVER, "certificate": "server"},
        "the server certificate of a:8002 expires within days, or has expired",
        "The server certificate of a:8002 expires in 1d 23h 54m 0s.",
        expiry((60, 3 * 86400)),
        "critical",
    ),
    Case(
        "AttnserveDescriptorsRunOut",
        descriptors((10, 500), (20, 900), (20, 500)),
        20,
        40,
        {**SERVER, "process": "front"},
        "front of a:8002 is about to run out of descriptors",
        "front of a:8002 has 90% of its descriptors open.",
        descriptors((60, 790)),
    ),
    Case(
        "AttnserveMemoryRunsOut",
        memory((10, 5), (20, 8.5), (20, 5)),
        20,
        40,
        SERVER,
        "a:8002 is about to run out of memory",
        "The processes of a:8002 use 95% of its memory.",
        memory((60, 7.9)),
    ),
    Case(
        "AttnserveDeviceMemoryRunsOut",
        device((10, 50), (20, 97), (20, 50)),
        20,
        40,
        {**SERVER, "device": "cuda:0"},
        "cuda:0 of a:8002 is about to run out of memory",
        "97% of the memory of cuda:0 of a:8002 is in use.",
        device((60, 94)),
    ),
)
