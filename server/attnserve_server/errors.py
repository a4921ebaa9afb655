# SPDX-License-Identifier: Apache-2.0
"""The one taxonomy of errors. Every ring raises these; only the transport knows what they are called on the wire."""

from __future__ import annotations

import enum


class ErrorCode(enum.Enum):
    """What kind of failure it is; the transport has one status for each."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class ServiceError(Exception):
    """Root of all errors that a request can end with.

    Args:
        message: for the client; says what was wrong and what would be right, and nothing of the server's inside.
        field: the request's field that is at fault, dotted ("options.beam_size"), where there is one.
        retry_after_s: when trying again may help, in seconds, where it may.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    reason: str = "INTERNAL"
    is_refusal: bool = False
    """Raised before anything was done for the request, so it should take no time."""

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message, self.field, self.retry_after_s = message, field, retry_after_s


class InvalidRequest(ServiceError):
    """A field has a value that can never be served."""

    code, reason = ErrorCode.INVALID_ARGUMENT, "INVALID_REQUEST"
    is_refusal = True


class SequenceTooLong(InvalidRequest):
    """The source has more pieces than the model takes. It is never cut."""

    reason = "SEQUENCE_TOO_LONG"


class ModelNotFound(ServiceError):
    """No such model, or no such version of it."""

    code, reason = ErrorCode.NOT_FOUND, "MODEL_NOT_FOUND"
    is_refusal = True


class ModelNotReady(ServiceError):
    """The model is known, but no worker can answer for it now."""

    code, reason = ErrorCode.UNAVAILABLE, "MODEL_NOT_READY"
    is_refusal = True


class ShuttingDown(ServiceError):
    """The server drains: what was admitted is answered, what comes new is refused."""

    code, reason = ErrorCode.UNAVAILABLE, "SHUTTING_DOWN"


class WorkerLost(ServiceError):
    """The worker died after part of the answer had been sent (or twice)."""

    code, reason = ErrorCode.UNAVAILABLE, "WORKER_LOST"


class Overloaded(ServiceError):
    """The queue is full, or this client's part of it."""

    code, reason = ErrorCode.OVERLOADED, "OVERLOADED"
    is_refusal = True


class DeadlineExceeded(ServiceError):
    """The client's deadline passed, in the queue or in the batch."""

    code, reason = ErrorCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class DeadlineUnreachable(DeadlineExceeded):
    """The deadline would pass before the answer: refused at once, so that nobody waits in vain."""

    reason = "DEADLINE_UNREACHABLE"
    is_refusal = True


class Cancelled(ServiceError):
    """The client left."""

    code, reason = ErrorCode.CANCELLED, "CANCELLED"


class ExecutionFailed(ServiceError):
    """A graph raised. The text is general; the log has the rest under the request's id."""

    code, reason = ErrorCode.INTERNAL, "EXECUTION_FAILED"


class StartupError(Exception):
    """Root of what can only happen before a server is ready."""


class BundleError(StartupError):
    """A bundle that cannot be served; lists everything that is wrong with it."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(problems))
        self.path, self.problems = path, problems


class ConfigError(StartupError):
    """A flag, environment variable or file entry that is unknown or out of range."""
