# SPDX-License-Identifier: Apache-2.0
"""What the front holds at a moment, as lines for the log: queues, rows at workers, and each request. No line has user text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from attnserve_server.engine.front.job import Job, Status

MAX_REQUESTS = 200
"""Requests that have a line of their own, the oldest ones."""
PHASES = {Status.QUEUED: "waits", Status.SENT: "at", Status.LEAVING: "cancelled, holds rows at", Status.DONE: "done"}


def snapshot(jobs: Iterable[Job], now: float) -> Iterator[str]:
    """Yields the lines: one for each model with requests, then one for each request, oldest first.

    Args:
        jobs: all that are not done.
        now: monotonic, in seconds.
    """
    oldest_first = sorted(jobs, key=lambda job: job.queued_at)
    yield f"{len(oldest_first)} requests in flight"
    for model in dict.fromkeys(job.model for job in oldest_first):
        own = [job for job in oldest_first if job.model is model]
        waiting = [job for job in own if job.status == Status.QUEUED]
        oldest = f", the oldest for {now - waiting[0].queued_at:.3f} s" if waiting else ""
        rows: Counter[str] = Counter()
        for job in own:
            if job.status != Status.QUEUED:
                rows[str(job.worker)] += job.work.num_rows
        held = ", ".join(f"{number} at {worker}" for worker, number in sorted(rows.items())) or "none"
        yield f"{model.id}, version {model.version}: {len(waiting)} wait{oldest}; rows: {held}"
    yield from (_of_request(job, now) for job in oldest_first[:MAX_REQUESTS])
    if len(oldest_first) > MAX_REQUESTS:
        yield f"{len(oldest_first) - MAX_REQUESTS} more requests"


def _of_request(job: Job, now: float) -> str:
    phase = PHASES[job.status] + (f" {job.worker}" if job.worker is not None else "")
    deadline = "no deadline" if job.deadline is None else f"deadline in {job.deadline - now:.3f} s"
    return (
        f"request {job.id} [{job.work.log_id}] of {job.model.id}: {phase}, for {now - job.queued_at:.3f} s; "
        f"{job.work.num_rows} rows, source {job.work.payload.num_source}, {len(job.delivered_at)} parts sent, "
        f"{len(job.tickets)} callers, {deadline}"
    )
