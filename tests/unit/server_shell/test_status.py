# SPDX-License-Identifier: Apache-2.0
"""Every error of the taxonomy has a status."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from attnserve_server import errors
from attnserve_server.errors import ErrorCode, ServiceError
from attnserve_server.transport.rpc.status import MAX_MESSAGE_CHARS, STATUS, message_of, rich_status, status_of

EXPECTED = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "SEQUENCE_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "MODEL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "MODEL_NOT_READY": grpc.StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    "WORKER_LOST": grpc.StatusCode.UNAVAILABLE,
    "EXTRA_MISSING": grpc.StatusCode.FAILED_PRECONDITION,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "ANSWERS_UNREAD": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DEADLINE_UNREACHABLE": grpc.StatusCode.DEADLINE_EXCEEDED,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "EXECUTION_FAILED": grpc.StatusCode.INTERNAL,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}


def all_errors(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


def details(error: ServiceError) -> dict[str, status_pb2.Status]:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    found = {}
    for packed in rich_status(error).details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.DESCRIPTOR.name] = message
    return found


@pytest.mark.parametrize("error_class", list(all_errors()), ids=lambda each: each.__name__)
def test_every_error_has_its_status(error_class: type[ServiceError]) -> None:
    error = error_class("what was wrong")
    assert status_of(error) is EXPECTED[error.reason]
    assert rich_status(error).code == EXPECTED[error.reason].value[0]
    assert rich_status(error).message == "what was wrong"
    info = details(error)["ErrorInfo"]
    assert (info.reason, info.domain) == (error.reason, "attnserve")


def test_reasons_are_unique_and_none_is_left_over() -> None:
    assert sorted(each.reason for each in all_errors()) == sorted(EXPECTED)


def test_every_code_is_mapped() -> None:
    assert set(STATUS) == set(ErrorCode)


def test_field_becomes_a_violation() -> None:
    violation = details(errors.InvalidRequest("too big", field="options.beam_size"))["BadRequest"].field_violations[0]
    assert (violation.field, violation.description) == ("options.beam_size", "too big")


def test_no_details_that_do_not_apply() -> None:
    assert set(details(errors.ModelNotFound("no"))) == {"ErrorInfo"}


def test_retry_info() -> None:
    assert details(errors.Overloaded("full", retry_after_s=0.25))["RetryInfo"].retry_delay.nanos == 250_000_000
    assert details(errors.Overloaded("full"))["RetryInfo"].retry_delay.seconds == 1
    assert details(errors.ModelNotReady("soon", retry_after_s=2.0))["RetryInfo"].retry_delay.seconds == 2


def test_long_messages_are_cut() -> None:
    error = errors.InvalidRequest("x" * 10_000, field="text")
    assert len(message_of(error)) == MAX_MESSAGE_CHARS
    assert rich_status(error).ByteSize() < 4096
