# SPDX-License-Identifier: Apache-2.0
"""Counts, times and records the end of each request once, for all protocols. The front counts its own events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.ends import Ends
from attnserve_server.errors import ErrorCode, ServiceError
from attnserve_server.metrics.ended import MethodName

_CLOCK_SLACK_S = 0.05
"""The server counts a deadline from the request's arrival, so the client's expires a little earlier and its reset arrives first."""


class RequestRecorder(Protocol):
    """Counts requests (``metrics.prometheus.Metrics``).

    ``model`` and ``version`` are empty if no model was found, so that text from a client never becomes a label.
    """

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        """Counts one ended request; ``code`` is the name of its status."""
        ...

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was refused before it reached the front; ``reason`` is the error's, in lower case."""
        ...

    def request_refused(self, model: str, version: str, reason: str, duration_s: float) -> None:
        """Observes the duration of a request that was refused before any work was done for it, by the front or earlier."""
        ...

    def image_prepared(self, model: str, version: str, duration_s: float) -> None:
        """Observes the time from the arrival of a request with an image to its submission to the front."""
        ...

    def request_cancelled(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was cancelled before the front had it, or after the front had answered.

        ``reason`` is "client", "deadline" or "shutdown".
        """
        ...

    def watch_answers(self, num_bytes: Callable[[], int]) -> None:
        """Sets the function that returns the size of all answers that clients have not read yet; for any thread."""
        ...


class Accounts:
    """Records how the requests of one method end.

    Args:
        name: of the method; its own is a label.
        recorder: counts requests; None for methods that are neither counted nor logged, such as probes.
        is_cancelling: whether the server has begun to cancel the requests that are left when it stops.
        ends: records the ends of requests beside their counts.
    """

    def __init__(
        self, name: MethodName, recorder: RequestRecorder | None, is_cancelling: Callable[[], bool], ends: Ends | None = None
    ) -> None:
        self._name, self._recorder, self._is_cancelling, self._ends = name, recorder, is_cancelling, ends or Ends()

    def answered(self, call: Call) -> None:
        """Records an answered request."""
        self._record(call, "OK", "-")

    def abandoned(self, call: Call) -> None:
        """Cancels and records a request whose client disconnected, whose deadline passed, or that a shutdown ended.

        A client that disconnects during a drain has left by itself: the server cancels nothing before the drain is over.
        """
        reason = "deadline" if call.is_past_deadline(_CLOCK_SLACK_S) else "shutdown" if self._is_cancelling() else "client"
        call.cancel(reason)
        if self._recorder is not None and (call.is_being_made or not call.is_submitted):
            self._recorder.request_cancelled(*call.labels, reason)
        self._record(call, "DEADLINE_EXCEEDED" if reason == "deadline" else "CANCELLED", reason)

    def failed(self, call: Call, error: ServiceError, code: str) -> None:
        """Records a request that ends with an error; ``code`` is the name of its status."""
        call.cancel("error")
        if self._recorder is not None and not call.is_submitted and error.code is not ErrorCode.INTERNAL:
            self._recorder.request_rejected(*call.labels, error.reason.lower())
        if self._recorder is not None and error.is_refusal:
            self._recorder.request_refused(*call.labels, error.reason.lower(), time.monotonic() - call.received_at)
        self._record(call, code, error.reason)

    def _record(self, call: Call, code: str, reason: str) -> None:
        if self._recorder is None:
            return
        ended_at = time.monotonic()
        self._recorder.request_done(*call.labels, self._name.method, code, ended_at - call.received_at)
        self._ends.record(self._name, call, (code, reason), ended_at)
