# SPDX-License-Identifier: Apache-2.0
"""The lines about what the front holds: phases, ages, rows, and a bound."""

from __future__ import annotations

from attnserve_server.engine.front.job import Job, Status
from attnserve_server.engine.front.snapshot import MAX_REQUESTS, snapshot
from attnserve_server.request import DecodeOptions, Terms, sequence_work
from tests.fakes.dataplane import letters_model

MODEL = letters_model()


def job(number: int, queued_at: float, status: Status = Status.QUEUED, worker: str | None = None) -> Job:
    work = sequence_work(number, [ord("x"), 0], DecodeOptions(4, 4))
    found = Job(MODEL, work, Terms(), queued_at)
    found.status, found.worker = status, worker
    return found


def test_phases_ages_and_rows_are_shown_oldest_first() -> None:
    jobs = [job(1, 9.5), job(2, 8.0, Status.SENT, "worker-1.0"), job(3, 7.0, Status.LEAVING, "worker-1.0"), job(4, 9.0)]
    head, model, *requests = snapshot(jobs, 10.0)
    assert head == "4 requests in flight"
    assert model == f"{MODEL.id}, version {MODEL.version}: 2 wait, the oldest for 1.000 s; rows: 8 at worker-1.0"
    assert [line.split(";")[0] for line in requests] == [
        f"request 3 [-] of {MODEL.id}: cancelled, holds rows at worker-1.0, for 3.000 s",
        f"request 2 [-] of {MODEL.id}: at worker-1.0, for 2.000 s",
        f"request 4 [-] of {MODEL.id}: waits, for 1.000 s",
        f"request 1 [-] of {MODEL.id}: waits, for 0.500 s",
    ]


def test_only_the_oldest_requests_have_a_line() -> None:
    lines = list(snapshot([job(number, float(number)) for number in range(MAX_REQUESTS + 3)], 1000.0))
    assert len(lines) == MAX_REQUESTS + 3
    assert lines[-1] == "3 more requests"


def test_idle_front_has_one_line() -> None:
    assert list(snapshot([], 0.0)) == ["0 requests in flight"]
