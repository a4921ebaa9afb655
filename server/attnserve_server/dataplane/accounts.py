# SPDX-License-Identifier: Apache-2.0
"""How a request ended, for every protocol alike: counted, timed and logged once. The front counts what happens inside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from attnserve_server.dataplane.call import Call
from attnserve_server.errors import ErrorCode, ServiceError
from attnserve_server.metrics import logs

logger = logging.getLogger(__name__)

_CLOCK_SLACK_S = 0.05
"""A deadline counts from the request's arrival, so the client's own runs out a little earlier, and its reset comes first."""


class RequestRecorder(Protocol):
    """Where requests are counted (``metrics.prometheus.Metrics``).

    ``model`` and ``version`` are empty where no model was found, so that what a client makes up never becomes a label.
    """

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        """Counts one request, however it ended; ``code`` is its status' name."""
        ...

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was refused before the front was asked; ``reason`` is the error's, in lower case."""
        ...

    def request_refused(self, model: str, version: str, reason: str, duration_s: float) -> None:
        """Takes the time of a request that was refused before anything was done for it, by the front or before."""
        ...

    def image_prepared(self, model: str, version: str, duration_s: float) -> None:
        """Takes the time that a request with an image took before the front was asked."""
        ...

    def request_cancelled(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was given up before the front was asked: "client", "deadline" or "shutdown"."""
        ...


class Accounts:
    """Takes the ends of one method's requests.

    Args:
        method: its name, a label.
        recorder: counts; None for what is neither counted nor logged, as probes.
        is_stopping: whether a cancelled request is the server's doing.
    """

    def __init__(self, method: str, recorder: RequestRecorder | None, is_stopping: Callable[[], bool]) -> None:
        self._method, self._recorder, self._is_stopping = method, recorder, is_stopping

    def answered(self, call: Call) -> None:
        """It has its answer."""
        self._record(call, "OK", "-")

    def abandoned(self, call: Call) -> None:
        """Its client waits no longer."""
        reason = "deadline" if call.is_past_deadline(_CLOCK_SLACK_S) else "shutdown" if self._is_stopping() else "client"
        call.cancel(reason)
        if self._recorder is not None and not call.is_submitted:
            self._recorder.request_cancelled(*call.labels, reason)
        self._record(call, "DEADLINE_EXCEEDED" if reason == "deadline" else "CANCELLED", reason)

    def failed(self, call: Call, error: ServiceError, code: str) -> None:
        """It ends with an error, whose status has this name."""
        call.cancel("error")
        if self._recorder is not None and not call.is_submitted and error.code is not ErrorCode.INTERNAL:
            self._recorder.request_rejected(*call.labels, error.reason.lower())
        if self._recorder is not None and error.is_refusal:
            self._recorder.request_refused(*call.labels, error.reason.lower(), time.monotonic() - call.received_at)
        self._record(call, code, error.reason)

    def _record(self, call: Call, code: str, reason: str) -> None:
        if self._recorder is None:
            return
        duration_s = time.monotonic() - call.received_at
        model, version = call.labels
        self._recorder.request_done(model, version, self._method, code, duration_s)
        fields = {
            "method": self._method,
            "code": code,
            "reason": reason,
            "model": model,
            "version": version,
            "duration_s": duration_s,
        }
        text = "%s %s %s model=%s/%s %.1fms"
        logger.info(text, self._method, code, reason, model, version, duration_s * 1e3, extra={logs.FIELDS: fields})
