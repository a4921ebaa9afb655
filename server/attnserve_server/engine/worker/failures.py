# SPDX-License-Identifier: Apache-2.0
"""How engines end requests that are dropped or fail."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from attnserve_server.errors import Cancelled, DeadlineExceeded, ExecutionFailed
from attnserve_server.metrics import logs
from attnserve_server.request import Failed, Work

log = logging.getLogger(__name__)
_DROPPED = {"client": Cancelled, "deadline": DeadlineExceeded}


def dropped(request_id: int, reason: str) -> Failed:
    """Returns the end of a request that was dropped: "client", "deadline", or the front's own reasons, "shutdown" and "error"."""
    return Failed(request_id, _DROPPED.get(reason, Cancelled).reason, f"the request was dropped: {reason}")


def failed(works: Iterable[Work[Any]], error: Exception) -> list[Failed]:
    """Ends requests with INTERNAL; logs one line for each under its id, the first one with the traceback."""
    all_works = list(works)
    text = "execution failed, the request is answered with INTERNAL (one of %d): %s: %s"
    for index, work in enumerate(all_works):
        with logs.of_request(work.log_id):
            log.error(text, len(all_works), type(error).__name__, error, exc_info=error if index == 0 else None)
    return [Failed(work.request_id, ExecutionFailed.reason, "the model could not be run") for work in all_works]
