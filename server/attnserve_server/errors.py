# SPDX-License-Identifier: Apache-2.0
"""The taxonomy of errors. All parts of the server raise these; only the transport maps them to statuses."""

from __future__ import annotations

import enum


class ErrorCode(enum.Enum):
    """Kind of failure; the transport maps each to one status."""

    INVALID_ARGUMENT = "invalid_argument"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    FAILED_PRECONDITION = "failed_precondition"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class ServiceError(Exception):
    """Root of all errors that a request can end with.

    Args:
        message: for the client; says what is wrong and what would be valid, and nothing about the server's internals.
        field: dotted path of the invalid field ("options.beam_size"), if there is one.
        retry_after_s: seconds after which a retry may succeed; None if none may.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    reason: str = "INTERNAL"
    is_refusal: bool = False
    """Whether it is raised before any work was done for the request."""

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message, self.field, self.retry_after_s = message, field, retry_after_s


class InvalidRequest(ServiceError):
    """A field has a value that can never be served."""

    code, reason = ErrorCode.INVALID_ARGUMENT, "INVALID_REQUEST"
    is_refusal = True


class SequenceTooLong(InvalidRequest):
    """The source has more pieces than the model accepts. Sources are never truncated."""

    reason = "SEQUENCE_TOO_LONG"


class Unauthenticated(ServiceError):
    """The request has no token, or one that the server does not know."""

    code, reason = ErrorCode.UNAUTHENTICATED, "UNAUTHENTICATED"
    is_refusal = True


class PermissionDenied(ServiceError):
    """The request's token does not permit it."""

    code, reason = ErrorCode.PERMISSION_DENIED, "PERMISSION_DENIED"
    is_refusal = True


class ModelNotFound(ServiceError):
    """No such model, or no such version of it."""

    code, reason = ErrorCode.NOT_FOUND, "MODEL_NOT_FOUND"
    is_refusal = True


class ExtraMissing(ServiceError):
    """The server lacks an optional package that the request needs; the message names the extra."""

    code, reason = ErrorCode.FAILED_PRECONDITION, "EXTRA_MISSING"
    is_refusal = True


class ModelNotReady(ServiceError):
    """The model is known, but no worker is ready for it."""

    code, reason = ErrorCode.UNAVAILABLE, "MODEL_NOT_READY"
    is_refusal = True


class ShuttingDown(ServiceError):
    """The server drains: admitted requests are answered, new ones are refused."""

    code, reason = ErrorCode.UNAVAILABLE, "SHUTTING_DOWN"


class WorkerLost(ServiceError):
    """The worker process died after part of the answer was sent, or in both attempts."""

    code, reason = ErrorCode.UNAVAILABLE, "WORKER_LOST"


class Overloaded(ServiceError):
    """The queue, or this client's share of it, is full."""

    code, reason = ErrorCode.OVERLOADED, "OVERLOADED"
    is_refusal = True


class AnswersUnread(ServiceError):
    """Too many bytes of answers wait until the client, or all clients, read them."""

    code, reason = ErrorCode.OVERLOADED, "ANSWERS_UNREAD"


class RateLimited(ServiceError):
    """The token has used up its calls of this second."""

    code, reason = ErrorCode.OVERLOADED, "RATE_LIMITED"
    is_refusal = True


class DeadlineExceeded(ServiceError):
    """The client's deadline passed, in the queue or in the batch."""

    code, reason = ErrorCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class DeadlineUnreachable(DeadlineExceeded):
    """The deadline would pass before the answer; the request is refused at once."""

    reason = "DEADLINE_UNREACHABLE"
    is_refusal = True


class Cancelled(ServiceError):
    """The client disconnected or cancelled the request."""

    code, reason = ErrorCode.CANCELLED, "CANCELLED"


class ExecutionFailed(ServiceError):
    """A graph failed. The message is generic; the log has the details under the request's id."""

    code, reason = ErrorCode.INTERNAL, "EXECUTION_FAILED"


class StartupError(Exception):
    """Root of the errors of configuring the server and loading models."""


class BundleError(StartupError):
    """A bundle cannot be served; lists all its problems."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(problems))
        self.path, self.problems = path, problems


class ConfigError(StartupError):
    """A flag, environment variable or file entry is unknown or invalid."""


class TrustError(StartupError):
    """A file of certificates or tokens cannot be used. The message names the file and says nothing of its content."""
