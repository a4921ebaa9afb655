# SPDX-License-Identifier: Apache-2.0
"""The errors of requests that were cancelled, or that failed in a worker."""

from __future__ import annotations

from attnserve_server.errors import Cancelled, DeadlineExceeded, ExecutionFailed, ServiceError


def error_of(reason: str) -> ServiceError:
    """Returns the error of a cancelled ticket."""
    if reason == "deadline":
        return DeadlineExceeded("the deadline passed before the answer was ready")
    return Cancelled("the request was cancelled")


def failure_of(reason: str, message: str) -> ServiceError:
    """Returns the error that a worker reports."""
    kinds: list[type[ServiceError]] = [Cancelled, DeadlineExceeded]
    return next((kind for kind in kinds if kind.reason == reason), ExecutionFailed)(message)
