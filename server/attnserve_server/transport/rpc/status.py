# SPDX-License-Identifier: Apache-2.0
"""Maps the taxonomy of errors to gRPC statuses and ``google.rpc`` details. Used by ``calls.py`` only."""

from __future__ import annotations

import math

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from attnserve_server.errors import ErrorCode, ServiceError

DOMAIN = "attnserve"
"""The domain of every ``ErrorInfo``."""

DETAILS_KEY = "grpc-status-details-bin"
"""The trailer that carries a ``google.rpc.Status``."""

MAX_MESSAGE_CHARS = 500
"""Longer messages are truncated: status and details are sent in trailers, which clients limit to 8 KiB."""

DEFAULT_RETRY_S = 1.0
"""Retry delay of an overload if the error has none."""

STATUS: dict[ErrorCode, grpc.StatusCode] = {
    ErrorCode.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}


def status_of(error: ServiceError) -> grpc.StatusCode:
    """Returns the gRPC status of an error."""
    return STATUS[error.code]


def message_of(error: ServiceError) -> str:
    """Returns the text for the client, truncated to fit into trailers."""
    text = error.message
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def rich_status(error: ServiceError) -> status_pb2.Status:
    """Returns the error with its details: reason, invalid field, retry delay."""
    details: list[message.Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message_of(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    retry_after_s = _retry_after(error)
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(math.ceil(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=status_of(error).value[0], message=message_of(error), details=[_packed(d) for d in details])


def _retry_after(error: ServiceError) -> float | None:
    if error.retry_after_s is None and error.code is ErrorCode.OVERLOADED:
        return DEFAULT_RETRY_S
    return error.retry_after_s


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
