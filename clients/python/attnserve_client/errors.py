# SPDX-License-Identifier: Apache-2.0
"""The errors of both clients: one root, and one class for each reason that the server gives. ``status.py`` makes them of calls."""

from __future__ import annotations

from typing import ClassVar


class AttnserveError(Exception):
    """Root of all errors of a call; raised as it is for a status that has no class of its own.

    Attributes:
        message: what the server, or the channel, said.
        code: the name of the call's gRPC status ("UNAVAILABLE").
        reason: the server's word for it ("MODEL_NOT_READY"); empty where it gave none.
        request_id: the id under which the server's log has it; empty where it sent none.
        field: the request's field at fault, dotted ("options.beam_size"), or None.
        retry_after_s: when trying again may help, in seconds, or None.
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
    """A field has a value that can never be served; see ``field``."""

    default_code = "INVALID_ARGUMENT"


class SequenceTooLong(InvalidRequest):
    """The source has more pieces than the model takes."""


class ModelNotFound(AttnserveError):
    """No such model, or no such version of it."""

    default_code = "NOT_FOUND"


class ModelNotReady(AttnserveError):
    """The model is known, but nothing can answer for it now."""

    default_code = "UNAVAILABLE"


class ShuttingDown(AttnserveError):
    """The server drains and takes nothing new."""

    default_code = "UNAVAILABLE"


class WorkerLost(AttnserveError):
    """The worker died while it answered."""

    default_code = "UNAVAILABLE"


class ServerUnreachable(AttnserveError):
    """Nobody answered: a wrong address, or a server that is not up or gone."""

    default_code = "UNAVAILABLE"


class Overloaded(AttnserveError):
    """The server's queue is full; see ``retry_after_s``."""

    default_code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(AttnserveError):
    """The timeout passed, on either side."""

    default_code = "DEADLINE_EXCEEDED"


class DeadlineUnreachable(DeadlineExceeded):
    """The server is too busy to answer within the timeout, and said so at once; ask again later, or with more time."""


class Cancelled(AttnserveError):
    """The call was cancelled."""

    default_code = "CANCELLED"


class ExecutionFailed(AttnserveError):
    """The server failed inside; its log has the rest under ``request_id``."""

    default_code = "INTERNAL"


class ToolError(Exception):
    """A tool (command line, evaluation, plot) cannot do its work: a file or an extra is missing. Says what would help."""


BY_REASON: dict[str, type[AttnserveError]] = {
    "INVALID_REQUEST": InvalidRequest,
    "SEQUENCE_TOO_LONG": SequenceTooLong,
    "MODEL_NOT_FOUND": ModelNotFound,
    "MODEL_NOT_READY": ModelNotReady,
    "SHUTTING_DOWN": ShuttingDown,
    "WORKER_LOST": WorkerLost,
    "OVERLOADED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "DEADLINE_UNREACHABLE": DeadlineUnreachable,
    "CANCELLED": Cancelled,
    "EXECUTION_FAILED": ExecutionFailed,
}
"""The class of each reason of the server's."""

BY_CODE: dict[str, type[AttnserveError]] = {
    error.default_code: error for error in (InvalidRequest, ModelNotFound, ServerUnreachable, DeadlineExceeded, Cancelled)
}
"""The class of a status that came without a reason. RESOURCE_EXHAUSTED is not here: without one it is a message too large."""
