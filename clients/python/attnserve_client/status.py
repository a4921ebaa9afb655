# SPDX-License-Identifier: Apache-2.0
"""Converts a failed call to an exception: status, ``google.rpc`` details and trailing metadata become one ``AttnserveError``."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from attnserve_client.errors import BY_CODE, BY_REASON, AttnserveError, ServerUnreachable, TlsFailed
from attnserve_client.security import closed_cause, tls_cause

REQUEST_ID_KEY = "x-request-id"

_LOCAL = frozenset(
    (
        "Locally cancelled by application!",
        "Channel closed!",
        "Channel deallocated!",
        "Cancelled upon garbage collection!",
        "Call cancelled in fork child",
    )
)
"""gRPC's texts of calls that were cancelled on this side."""

_TOO_LARGE = re.compile(r"(?=CLIENT: Sent|SERVER: Received)(CLIENT|SERVER): \w+ message larger than max \((\d+) vs\. (\d+)\)")
"""gRPC's text of a request above a limit."""
_CAUSES = (
    ("Failed parsing HTTP/2", "it is no port of gRPC, which is 8001 by default"),
    ("Connection refused", "nothing listens there"),
)
"""Parts of gRPC's texts of connections that fail, and what they mean."""

_M = TypeVar("_M", bound=Message)


def error_of_call(call: Any, address: str) -> AttnserveError:
    """Returns the exception for a failed call.

    Args:
        call: a ``grpc.RpcError`` with the methods of ``grpc.Call``, a finished future, or a ``grpc.aio.AioRpcError``.
        address: the server's address, for the message if the server did not answer.
    """
    details = _details_of(call)
    info = _first(details, error_details_pb2.ErrorInfo)
    code, reason = call.code().name, info.reason if info is not None else ""
    error_class = BY_REASON.get(reason) or BY_CODE.get(code, AttnserveError)
    message = call.details() or code
    if error_class is ServerUnreachable:
        error_class, message = _unreachable(address, message)
    elif code == "RESOURCE_EXHAUSTED" and (sizes := _TOO_LARGE.match(message)):
        message = f"the request has {int(sizes[2]):,} bytes, and the {sizes[1].lower()} allows at most {int(sizes[3]):,}"
    elif code == "CANCELLED" and not reason and message not in _LOCAL:
        error_class = ServerUnreachable
        message = f"{address} ended the call without an answer (it may be stopping): {message}"
    return error_class(
        message,
        code=code,
        reason=reason,
        request_id=_request_id_of(call),
        field=_field_of(details),
        retry_after_s=_retry_delay_of(details),
    )


def _unreachable(address: str, details: str) -> tuple[type[AttnserveError], str]:
    """Returns the class and the message for a server that did not answer."""
    cause = tls_cause(details)
    if cause:
        return TlsFailed, f"no TLS connection to {address}: {cause} ({details})"
    cause = closed_cause(details) or next((text for part, text in _CAUSES if part in details), "")
    return ServerUnreachable, f"no answer from {address}: {details}" + (f"; {cause}" if cause else "")


def _details_of(call: Any) -> list[Any]:
    """Returns the packed details; an empty list if the server sent none or they cannot be parsed."""
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):  # the details contradict the status, or are not a google.rpc.Status
        return []
    return list(status.details) if status is not None else []


def _first(details: list[Any], kind: type[_M]) -> _M | None:
    for packed in details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def _field_of(details: list[Any]) -> str | None:
    bad_request = _first(details, error_details_pb2.BadRequest)
    return bad_request.field_violations[0].field if bad_request is not None and bad_request.field_violations else None


def _retry_delay_of(details: list[Any]) -> float | None:
    retry_info = _first(details, error_details_pb2.RetryInfo)
    return None if retry_info is None else retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9


def _request_id_of(call: Any) -> str:
    for key, value in call.trailing_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)
    return ""
