# SPDX-License-Identifier: Apache-2.0
"""The errors of both clients: one root, and one class for each reason that the server gives. ``status.py`` creates them."""

from __future__ import annotations

from typing import ClassVar


class AttnserveError(Exception):
    """Root of all errors of a call; raised itself for a status that has no class.

    Attributes:
        message: text from the server or the channel.
        code: the name of the call's gRPC status ("UNAVAILABLE").
        reason: the server's reason ("MODEL_NOT_READY"); empty if it sent none.
        request_id: the request's id in the server's log; empty if it sent none.
        field: path of the invalid field of the request ("options.beam_size"), or None.
        retry_after_s: seconds after which a retry may succeed, or None.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        request_id: str = "",
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.reason = message, code or self.default_code, reason
        self.request_id, self.field, self.retry_after_s = request_id, field, retry_after_s


class InvalidRequest(AttnserveError):
    """A field of the request has an invalid value; see ``field``."""

    default_code = "INVALID_ARGUMENT"


class SequenceTooLong(InvalidRequest):
    """The source has more pieces than the model accepts."""


class Unauthenticated(AttnserveError):
    """The call has no token, or one that the server does not know."""

    default_code = "UNAUTHENTICATED"


class PermissionDenied(AttnserveError):
    """The token does not permit this call."""

    default_code = "PERMISSION_DENIED"


class ModelNotFound(AttnserveError):
    """The server has no such model, or no such version of it."""

    default_code = "NOT_FOUND"


class ExtraMissing(AttnserveError):
    """The server lacks an optional package that the request needs; the message names the extra."""

    default_code = "FAILED_PRECONDITION"


class ModelNotReady(AttnserveError):
    """The model is known, but cannot answer now."""

    default_code = "UNAVAILABLE"


class ShuttingDown(AttnserveError):
    """The server is shutting down and accepts no new requests."""

    default_code = "UNAVAILABLE"


class WorkerLost(AttnserveError):
    """The worker process died during the request."""

    default_code = "UNAVAILABLE"


class ServerUnreachable(AttnserveError):
    """The server did not answer: the address is wrong, or the server is down or stopping.

    ``code`` is CANCELLED if the server, as it stopped, or a proxy before it ended the call.
    """

    default_code = "UNAVAILABLE"


class TlsFailed(ServerUnreachable):
    """TLS refused the connection; the message names the likely cause. It is not retried."""


class RateLimited(AttnserveError):
    """The token's calls of this second are used up; see ``retry_after_s``."""

    default_code = "RESOURCE_EXHAUSTED"


class Overloaded(AttnserveError):
    """The server's queue is full; see ``retry_after_s``."""

    default_code = "RESOURCE_EXHAUSTED"


class AnswersUnread(AttnserveError):
    """The client, or all clients, have left too many answers unread; this one was given up after the work."""

    default_code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(AttnserveError):
    """The timeout passed, on either side."""

    default_code = "DEADLINE_EXCEEDED"


class DeadlineUnreachable(DeadlineExceeded):
    """The server refused the request immediately: it could not have answered within the timeout."""


class Cancelled(AttnserveError):
    """The call was cancelled."""

    default_code = "CANCELLED"


class ClientClosed(AttnserveError):
    """The client was closed before the call."""

    default_code = "CANCELLED"


class ExecutionFailed(AttnserveError):
    """The server failed internally; its log has the details under ``request_id``."""

    default_code = "INTERNAL"


class ToolError(Exception):
    """A tool (command line, evaluation, plot) cannot run: a file or an extra is missing. The message names the remedy."""


BY_REASON: dict[str, type[AttnserveError]] = {
    "INVALID_REQUEST": InvalidRequest,
    "SEQUENCE_TOO_LONG": SequenceTooLong,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "MODEL_NOT_FOUND": ModelNotFound,
    "EXTRA_MISSING": ExtraMissing,
    "MODEL_NOT_READY": ModelNotReady,
    "SHUTTING_DOWN": ShuttingDown,
    "WORKER_LOST": WorkerLost,
    "OVERLOADED": Overloaded,
    "RATE_LIMITED": RateLimited,
    "ANSWERS_UNREAD": AnswersUnread,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "DEADLINE_UNREACHABLE": DeadlineUnreachable,
    "CANCELLED": Cancelled,
    "EXECUTION_FAILED": ExecutionFailed,
}
"""The class for each reason of the server."""

BY_CODE: dict[str, type[AttnserveError]] = {
    error.default_code: error
    for error in (
        InvalidRequest,
        Unauthenticated,
        PermissionDenied,
        ModelNotFound,
        ServerUnreachable,
        DeadlineExceeded,
        Cancelled,
    )
}
"""The class for a status without a reason. RESOURCE_EXHAUSTED is not here: without a reason the message was too large."""
