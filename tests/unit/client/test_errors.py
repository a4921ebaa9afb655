# SPDX-License-Identifier: Apache-2.0
"""Errors: the exception of each failed call, and which calls are retried."""

from __future__ import annotations

import socketserver
import threading
from typing import Any

import grpc
import pytest

import attnserve_client
from attnserve_client import AttnserveError, Cancelled, Overloaded, RetryPolicy, ServerUnreachable
from attnserve_client.errors import BY_REASON
from attnserve_client.retry import Attempts, is_retryable
from attnserve_server import errors as server_errors
from tests.fakes.server import Failure, FakeServer

STATUS_OF = {
    server_errors.ErrorCode.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    server_errors.ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    server_errors.ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    server_errors.ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    server_errors.ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    server_errors.ErrorCode.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    server_errors.ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    server_errors.ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    server_errors.ErrorCode.CANCELLED: grpc.StatusCode.CANCELLED,
    server_errors.ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}


def service_errors(root: type[server_errors.ServiceError] = server_errors.ServiceError) -> list[Any]:
    """All direct and indirect subclasses of the server's root error."""
    return [found for child in root.__subclasses__() for found in (child, *service_errors(child))]


@pytest.mark.parametrize("server_error", service_errors(), ids=lambda error: error.__name__)
def test_every_reason_has_its_class(make_client: Any, server: FakeServer, server_error: Any) -> None:
    status = STATUS_OF[server_error.code]
    server.translation.failures.append(Failure(status, "what was wrong", server_error.reason, "text", 1.5))
    with pytest.raises(AttnserveError) as caught:
        make_client(retries=0).translate("x")
    error = caught.value
    assert type(error).__name__ == server_error.__name__
    assert type(error) is getattr(attnserve_client, server_error.__name__)
    assert (error.code, error.reason, error.message) == (status.name, server_error.reason, "what was wrong")
    assert (error.request_id, error.field, error.retry_after_s) == ("r-1", "text", 1.5)
    assert type(error).default_code == status.name


def test_no_class_without_a_reason_of_the_server() -> None:
    assert set(BY_REASON) == {error.reason for error in service_errors()}


def test_subclasses_follow_the_server() -> None:
    assert issubclass(attnserve_client.SequenceTooLong, attnserve_client.InvalidRequest)
    assert issubclass(attnserve_client.DeadlineUnreachable, attnserve_client.DeadlineExceeded)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (grpc.StatusCode.UNAVAILABLE, "ServerUnreachable"),
        (grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest"),
        (grpc.StatusCode.CANCELLED, "ServerUnreachable"),
        (grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated"),
        (grpc.StatusCode.PERMISSION_DENIED, "PermissionDenied"),
        (grpc.StatusCode.UNIMPLEMENTED, "AttnserveError"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "AttnserveError"),
    ],
)
def test_status_without_details(make_client: Any, server: FakeServer, status: Any, name: str) -> None:
    server.translation.failures.append(Failure(status, "bare"))
    with pytest.raises(AttnserveError, match="bare") as caught:
        make_client(retries=0).translate("x")
    error = caught.value
    assert (type(error).__name__, error.code, error.reason) == (name, status.name, "")
    assert (error.field, error.retry_after_s, error.request_id) == (None, None, "r-1")


def test_call_that_the_other_side_ends_without_an_answer_names_the_address(make_client: Any, server: FakeServer) -> None:
    server.translation.failures.append(Failure(grpc.StatusCode.CANCELLED, "RST_STREAM"))
    with pytest.raises(ServerUnreachable) as caught:
        make_client(retries=0).translate("x")
    assert caught.value.message == f"{server.address} ended the call without an answer (it may be stopping): RST_STREAM"


@pytest.mark.parametrize(
    "text",
    [
        "Locally cancelled by application!",
        "Channel closed!",
        "Channel deallocated!",
        "Cancelled upon garbage collection!",
        "Call cancelled in fork child",
    ],
)
def test_call_that_was_cancelled_on_this_side_is_not_retried(make_client: Any, server: FakeServer, text: str) -> None:
    server.translation.failures.append(Failure(grpc.StatusCode.CANCELLED, text))
    with pytest.raises(Cancelled) as caught:
        make_client().translate("x")
    assert (caught.value.message, len(server.translation.requests)) == (text, 1)


def test_request_above_a_limit_is_an_error_with_its_size(make_client: Any, server: FakeServer) -> None:
    with pytest.raises(AttnserveError, match=r"^the request has 17,000,0\d\d bytes, and the client allows at most 16,777,216$"):
        make_client().caption(bytes(17_000_000))
    text = "SERVER: Received message larger than max (13000004 vs. 12582912)"
    server.translation.failures.append(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    with pytest.raises(AttnserveError, match=r"^the request has 13,000,004 bytes, and the server allows at most 12,582,912$"):
        make_client().translate("x")


class Pages(socketserver.BaseRequestHandler):
    """Answers with a page of HTTP, and reads until the client closes, so that no reset overtakes the page."""

    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while self.request.recv(4096):
            pass


def test_unreachable_server_is_an_error_with_its_cause(make_client: Any, unused_port: int) -> None:
    with pytest.raises(ServerUnreachable, match=f"no answer from 127.0.0.1:{unused_port}: .*refused; nothing listens there$"):
        make_client(f"127.0.0.1:{unused_port}", retries=0).translate("x")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Pages) as pages:
        pages.daemon_threads = True
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        with pytest.raises(ServerUnreachable, match=r"; it is no port of gRPC, which is 8001 by default$"):
            make_client(f"127.0.0.1:{pages.server_address[1]}", retries=0).translate("x")
        pages.shutdown()


def test_unknown_reason_falls_back_to_the_status(make_client: Any, server: FakeServer) -> None:
    server.translation.failures.append(Failure(grpc.StatusCode.UNAVAILABLE, "later", "OUT_FOR_LUNCH"))
    with pytest.raises(ServerUnreachable) as caught:
        make_client(retries=0).translate("x")
    assert caught.value.reason == "OUT_FOR_LUNCH"


def test_what_is_retryable() -> None:
    assert is_retryable(ServerUnreachable("away"))
    assert is_retryable(Overloaded("full", reason="OVERLOADED"))
    assert is_retryable(AttnserveError("quota", code="RESOURCE_EXHAUSTED", retry_after_s=1))
    assert not is_retryable(AttnserveError("message larger than max", code="RESOURCE_EXHAUSTED"))
    assert not is_retryable(AttnserveError("broken", code="INTERNAL"))


def test_backoff_grows_to_its_bound_with_jitter() -> None:
    policy = RetryPolicy(initial_backoff_s=0.1, multiplier=2, max_backoff_s=0.5, jitter=0.2)
    error = ServerUnreachable("away")
    assert [policy.backoff_s(attempt, error, 0.5) for attempt in (1, 2, 3, 4, 5)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert policy.backoff_s(1, error, 0.0) == pytest.approx(0.08)
    assert policy.backoff_s(1, error, 1.0) == pytest.approx(0.12)


def test_backoff_is_never_below_what_the_server_asked_for() -> None:
    policy, error = RetryPolicy(initial_backoff_s=0.1), Overloaded("full", retry_after_s=3)
    assert policy.backoff_s(1, error, 0.0) == 3
    assert 3 < policy.backoff_s(1, error, 0.9) < 3.7


def test_attempts_count_and_keep_the_deadline() -> None:
    now = [100.0]
    policy = RetryPolicy(retries=2, initial_backoff_s=1, jitter=0)
    attempts = Attempts(policy, 10, clock=lambda: now[0], draw=lambda: 0.5)
    assert attempts.remaining_s() == 10
    assert attempts.delay_after(ServerUnreachable("away")) == 1
    now[0] += 9
    assert attempts.remaining_s() == 1
    assert attempts.delay_after(ServerUnreachable("away")) is None
    now[0] += 9
    assert attempts.remaining_s() == 0
    assert Attempts(policy, float("inf")).remaining_s() is None


@pytest.mark.parametrize("timeout_s", [1.0, 5.0, 30.0, 3600.0])
def test_default_policy_retries_while_the_deadline_allows(timeout_s: float) -> None:
    now = [100.0]
    attempts = Attempts(RetryPolicy(), timeout_s, clock=lambda: now[0], draw=lambda: 0.5)
    while (delay := attempts.delay_after(ServerUnreachable("down"))) is not None:
        now[0] += delay
    assert timeout_s - 2.0 <= now[0] - 100.0 < timeout_s, "one more wait would have passed the deadline"


def test_backoff_of_many_attempts_is_the_largest() -> None:
    assert RetryPolicy(jitter=0).backoff_s(5000, ServerUnreachable("down"), 0.5) == RetryPolicy().max_backoff_s


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"multiplier": 0.5}, {"jitter": 1}, {"max_backoff_s": -1}])
def test_policies_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**wrong)
