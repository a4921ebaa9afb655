# SPDX-License-Identifier: Apache-2.0
"""Tokens: their file, their rates, and which calls they permit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from attnserve.v1 import model_pb2, translation_pb2
from attnserve_server.config_trust import TlsConfig, TokensConfig
from attnserve_server.errors import TrustError
from attnserve_server.transport.rpc.access import host_of, scope_of
from attnserve_server.transport.rpc.server import SERVICERS
from attnserve_server.transport.tokens import DEFAULT_SCOPES, Scope, Token, TokenBucket, digest_of, read_tokens
from attnserve_server.transport.trust import Trust
from tests.fakes.clock import Clock
from tests.fakes.trust import TrustRecorder, replace, token_line
from tests.unit.server_shell.conftest import Shell, ShellFactory, until
from tests.unit.server_shell.test_rpc import detail, failure, reason

Request, StreamRequest = translation_pb2.TranslateRequest, translation_pb2.TranslateStreamRequest
SHA = "a" * 64


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


class Guarded:
    """A server whose calls need tokens of a file."""

    def __init__(self, shell: Shell, trust: Trust, file: Path, recorder: TrustRecorder) -> None:
        self.shell, self.trust, self.file, self.trust_recorder = shell, trust, file, recorder

    async def code(self, *metadata: tuple[str, str]) -> str:
        """The status of a unary call with this metadata, and its reason."""
        try:
            await self.shell.translation.Translate(Request(text="ja"), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {reason(error)}"
        return "OK"

    def replace(self, *lines: str) -> None:
        replace(self.file, "".join(lines).encode())
        self.trust.check()


async def guarded(make_shell: ShellFactory, folder: Path, *lines: str) -> Guarded:
    file, recorder = folder / "tokens", TrustRecorder()
    replace(file, "".join(lines).encode())
    trust = Trust(TlsConfig(), TokensConfig(file=str(file)), recorder)
    return Guarded(await make_shell(trust=trust), trust, file, recorder)


# --- Calls ---


async def test_token_names_the_client_and_its_own_id_only_divides_its_share(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"), token_line("bob", "t2"))
    assert await server.code(*bearer("t1"), ("x-client-id", "one")) == "OK"
    assert await server.code(("authorization", "bearer  t1"), ("x-client-id", "two")) == "OK"
    assert await server.code(*bearer("t2"), ("x-client-id", "token:alice")) == "OK"
    terms = [ticket.terms for ticket in server.shell.front.tickets]
    assert [each.client for each in terms] == ["token:alice", "token:alice", "token:bob"]
    assert [each.part for each in terms] == ["one", "two", "token:alice"]


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("wrong"),
        bearer("t1x"),
        bearer("T1"),
        bearer(digest_of("t1").hex()),
        (("authorization", "Basic t1"),),
        (("authorization", "t1"),),
        (("authorization", "Bearer "),),
        (*bearer("t1"), *bearer("t1")),
    ],
    ids=str,
)
async def test_missing_and_wrong_tokens(make_shell: ShellFactory, tmp_path: Path, metadata: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"))
    assert await server.code(*metadata) == "UNAUTHENTICATED UNAUTHENTICATED"
    assert server.shell.recorder.counted == [
        ("rejected", "", "", "unauthenticated"),
        ("done", "", "", "Translate", "UNAUTHENTICATED"),
    ]
    assert server.shell.front.tickets == []
    assert all(value not in caplog.text for _, value in metadata)


async def test_a_refusal_comes_before_the_request_is_parsed(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"))
    call = server.shell.channel.unary_unary("/attnserve.v1.TranslationService/Translate")
    assert (await failure(call(b"\xff\xff"))).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await failure(call(b"\xff\xff", metadata=bearer("t1")))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_are_refused_with_the_same_status(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1", "read"))
    stream = server.shell.translation.TranslateStream
    assert (await failure(stream(StreamRequest(text="ja")).read())).code() is grpc.StatusCode.UNAUTHENTICATED
    error = await failure(stream(StreamRequest(text="ja"), metadata=bearer("t1")).read())
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert ("rejected", "", "", "permission_denied") in server.shell.recorder.counted


async def test_scopes(make_shell: ShellFactory, tmp_path: Path) -> None:
    lines = [token_line("i", "infer", "infer"), token_line("r", "read", "read"), token_line("a", "admin", "admin")]
    server = await guarded(make_shell, tmp_path, *lines)
    list_models = server.shell.models.ListModels
    assert [await server.code(*bearer(token)) for token in ("infer", "read", "admin")] == [
        "OK",
        "PERMISSION_DENIED PERMISSION_DENIED",
        "PERMISSION_DENIED PERMISSION_DENIED",
    ]
    await list_models(model_pb2.ListModelsRequest(), metadata=bearer("read"))
    error = await failure(list_models(model_pb2.ListModelsRequest(), metadata=bearer("infer")))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == "the token must have the scope read for this call"


def test_every_method_has_a_scope() -> None:
    scopes = {f"{service.name}/{method.name}": scope_of(method) for service, _ in SERVICERS for method in service.methods}
    assert {name for name, scope in scopes.items() if scope is Scope.ADMIN} == set(), "name the scope of a new method"
    assert scopes["TranslationService/TranslateStream"] is Scope.INFER
    assert scopes["ModelService/GetModel"] is Scope.READ


async def test_rate_is_refused_with_the_time_of_the_next_call(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1", "infer", "0.01"), token_line("bob", "t2"))
    assert await server.code(*bearer("t1")) == "OK"
    error = await failure(server.shell.translation.Translate(Request(text="ja"), metadata=bearer("t1")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error) == "RATE_LIMITED"
    delay = detail(error, error_details_pb2.RetryInfo()).retry_delay
    assert 90 < delay.seconds + delay.nanos / 1e9 <= 100
    assert ("rejected", "", "", "rate_limited") in server.shell.recorder.counted
    assert await server.code(*bearer("t2")) == "OK", "the rate is that of one token"


async def test_file_that_is_replaced(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"))
    server.replace(token_line("bob", "t2"))
    assert await server.code(*bearer("t1")) == "UNAUTHENTICATED UNAUTHENTICATED"
    assert await server.code(*bearer("t2")) == "OK"
    assert server.trust_recorder.counted == {"tokens reloaded": 1}


async def test_rate_survives_a_reload_unless_it_is_another_one(make_shell: ShellFactory, tmp_path: Path) -> None:
    slow = token_line("alice", "t1", "infer", "0.01")
    server = await guarded(make_shell, tmp_path, slow)
    assert await server.code(*bearer("t1")) == "OK"
    server.replace(slow, token_line("bob", "t2"))
    assert await server.code(*bearer("t1")) == "RESOURCE_EXHAUSTED RATE_LIMITED"
    server.replace(token_line("alice", "t1", "infer", "0.02"))
    assert await server.code(*bearer("t1")) == "OK"


async def test_token_revoked_during_a_stream_ends_with_the_next_call(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"), token_line("bob", "t2"))
    front = server.shell.front
    front.hang = True
    call = server.shell.translation.TranslateStream(StreamRequest(text="ja"), metadata=bearer("t1"))
    stream = aiter(call)
    events = [await anext(stream)]
    server.replace(token_line("bob", "t2"))
    assert await server.code(*bearer("t1")) == "UNAUTHENTICATED UNAUTHENTICATED"
    front.hang = False
    events += [event async for event in stream]
    assert events[-1].result.hypotheses[0].text == "JA"
    assert await call.code() is grpc.StatusCode.OK
    await until(lambda: ("done", "upper-en-de", "1", "TranslateStream", "OK") in server.shell.recorder.counted)
    assert await server.code(*bearer("t1")) == "UNAUTHENTICATED UNAUTHENTICATED"


async def test_health_needs_no_token(make_shell: ShellFactory, tmp_path: Path) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"))
    assert await server.shell.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")


# --- The file ---


def test_lines(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(
        f"# all clients\n\n{token_line('alice', 't1')}  \t\nbob@x.org {SHA.upper()} admin,read 2.5 # until May\n", encoding="utf-8"
    )
    assert read_tokens(file) == {
        digest_of("t1"): Token("alice", DEFAULT_SCOPES, None),
        bytes.fromhex(SHA): Token("bob@x.org", frozenset({Scope.ADMIN, Scope.READ}), 2.5),
    }


BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "only comments": b"# nothing\n",
    "garbage": bytes(range(256)),
    "zeros": bytes(1000),
    "not UTF-8": b"\xff\xfe",
    "name alone": b"alice\n",
    "short hash": b"alice abc\n",
    "no hexadecimal hash": f"alice {'g' * 64}\n".encode(),
    "bad name": f"-alice {SHA}\n".encode(),
    "unknown scope": f"alice {SHA} infer,write\n".encode(),
    "empty scope": f"alice {SHA} infer,\n".encode(),
    "rate that is no number": f"alice {SHA} infer fast\n".encode(),
    "rate of zero": f"alice {SHA} infer 0\n".encode(),
    "negative rate": f"alice {SHA} infer -1\n".encode(),
    "rate that is not finite": f"alice {SHA} infer nan\n".encode(),
    "infinite rate": f"alice {SHA} infer inf\n".encode(),
    "too many words": f"alice {SHA} infer 1 2\n".encode(),
    "name twice": f"alice {SHA}\nalice {'b' * 64}\n".encode(),
    "hash twice": f"alice {SHA}\nbob {SHA}\n".encode(),
    "too large": b"#" * 4_000_001,
}


@pytest.mark.parametrize("name", BAD_FILES)
async def test_file_that_cannot_be_used_is_refused_whole_and_the_old_one_stays(
    make_shell: ShellFactory, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = await guarded(make_shell, tmp_path, token_line("alice", "t1"))
    replace(server.file, BAD_FILES[name])
    server.trust.check()
    server.trust.check()
    assert server.trust_recorder.counted == {"tokens failed": 1}
    assert await server.code(*bearer("t1")) == "OK"
    assert str(server.file) in caplog.text
    assert SHA not in caplog.text
    with pytest.raises(TrustError):
        read_tokens(server.file)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="cannot be read"):
        Trust(TlsConfig(), TokensConfig(file=str(tmp_path / "nothing")), TrustRecorder())


def test_faults_are_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{token_line('alice', 't1')}bob secret-in-the-wrong-column\n", encoding="utf-8")
    with pytest.raises(TrustError, match="line 2: the SHA-256 must be 64 hexadecimal digits") as raised:
        read_tokens(file)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "is_warned"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True), ("a.example.org", True)],
)
def test_tokens_that_the_network_can_read_are_warned_about(
    tmp_path: Path, host: str, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text(token_line("alice", "t1"), encoding="utf-8")
    Trust(TlsConfig(), TokensConfig(), TrustRecorder()).warn_about(host)
    assert caplog.text == ""
    Trust(TlsConfig(), TokensConfig(file=str(file)), TrustRecorder()).warn_about(host)
    assert ("tokens are used without TLS" in caplog.text) == is_warned


# --- Rates and peers ---


def test_bucket_permits_a_seconds_worth_at_once_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(4.0, clock)
    assert [bucket.take() for _ in range(4)] == [0.0] * 4
    assert bucket.take() == 0.25
    clock.now += 0.125
    assert bucket.take() == 0.125
    clock.now += 0.125
    assert bucket.take() == 0.0
    clock.now += 3600
    assert [bucket.take() for _ in range(5)] == [0.0] * 4 + [0.25]


def test_bucket_of_a_low_rate_permits_single_calls() -> None:
    clock = Clock()
    bucket = TokenBucket(0.5, clock)
    assert [bucket.take(), bucket.take()] == [0.0, 2.0]
    clock.now += 2.0
    assert bucket.take() == 0.0


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:5000", "ipv4:127.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "ipv6:%5B::1%5D"),
        ("ipv6:[2001:db8::1]:5000", "ipv6:[2001:db8::1]"),
        ("unix:/run/a:1", "unix:/run/a:1"),
        ("unix:", "unix:"),
    ],
)
def test_host_of_a_peer(peer: str, host: str) -> None:
    assert host_of(peer) == host
