# SPDX-License-Identifier: Apache-2.0
"""TLS, client certificates and tokens of both clients and of the command line; and what they say when TLS refuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from attnserve_client import ServerUnreachable, TlsFailed, tls_credentials
from attnserve_client.cli import main
from attnserve_client.security import Security, closed_cause, read_token
from tests.fakes.server import FakeServer
from tests.fakes.trust import Files, chain_of, replace, seconds_from_now


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextlib.contextmanager
def secured(files: Files, *, is_mutual: bool = False) -> Iterator[FakeServer]:
    """A server with the certificate in the files."""
    pair = (files.key.read_bytes(), files.chain.read_bytes())
    ca = files.client_ca.cert_pem.bytes() if is_mutual else None
    server = FakeServer(credentials=grpc.ssl_server_credentials([pair], ca, is_mutual))
    yield server
    server.stop()


def ca_file(files: Files, ca: trustme.CA | None = None) -> str:
    path = files.folder / "ca.pem"
    path.write_bytes((ca or files.ca).cert_pem.bytes())
    return str(path)


def own_files(files: Files) -> tuple[str, str]:
    """Files of a client's certificate and key."""
    cert, (chain, key) = files.client(), (files.folder / "own.pem", files.folder / "own.key")
    chain.write_bytes(chain_of(cert))
    key.write_bytes(cert.private_key_pem.bytes())
    return str(chain), str(key)


def test_tls_and_a_client_certificate(make_client: Any, files: Files) -> None:
    with secured(files) as server:
        assert make_client(server.address, credentials=tls_credentials(ca_file(files))).list_models()
    with secured(files, is_mutual=True) as server:
        assert make_client(server.address, credentials=tls_credentials(ca_file(files), *own_files(files))).list_models()


def failed(make_client: Any, address: str, credentials: Any, **settings: Any) -> ServerUnreachable:
    began = time.monotonic()
    with pytest.raises(ServerUnreachable) as raised:
        make_client(address, credentials=credentials, **settings).list_models(timeout=50)
    assert time.monotonic() - began < 25, "it waited for its deadline"
    assert raised.value.code == "UNAVAILABLE"
    return raised.value


def test_wrong_ca(make_client: Any, files: Files) -> None:
    with secured(files) as server:
        error = failed(make_client, server.address, tls_credentials(ca_file(files, trustme.CA())), retries=1000)
    assert type(error) is TlsFailed, "which is not retried"
    assert "the server's certificate is not of the CA that this client trusts" in error.message


def test_name_of_several_servers(make_client: Any, files: Files) -> None:
    with secured(files) as server:
        target = f"dns:///{server.address}"
        assert make_client(target, credentials=tls_credentials(ca_file(files))).list_models()
        error = failed(make_client, target, tls_credentials(ca_file(files, trustme.CA())), retries=1000)
    assert type(error) is TlsFailed
    assert "the server's certificate is not of the CA that this client trusts" in error.message


def test_expired_certificate(make_client: Any, files: Files) -> None:
    files.issue(not_before=seconds_from_now(-99), not_after=seconds_from_now(-9))
    with secured(files) as server:
        error = failed(make_client, server.address, tls_credentials(ca_file(files)))
    assert type(error) is TlsFailed
    assert "the server's certificate has expired" in error.message


def test_certificate_of_another_name(make_client: Any, files: Files) -> None:
    cert = files.ca.issue_cert("elsewhere.example.org")
    replace(files.chain, chain_of(cert))
    replace(files.key, cert.private_key_pem.bytes())
    with secured(files) as server:
        error = failed(make_client, server.address, tls_credentials(ca_file(files)))
    assert type(error) is TlsFailed
    assert "does not name the host of the address" in error.message


def test_server_without_tls(make_client: Any, server: FakeServer, files: Files) -> None:
    error = failed(make_client, server.address, tls_credentials(ca_file(files)))
    assert type(error) is TlsFailed
    assert "the server does not use TLS on this port" in error.message


@pytest.mark.parametrize("has_tls", [False, True], ids=["no TLS", "no client certificate"])
def test_server_that_needs_more_closes_the_connection(make_client: Any, files: Files, has_tls: bool) -> None:
    with secured(files, is_mutual=True) as server:
        error = failed(make_client, server.address, tls_credentials(ca_file(files)) if has_tls else None, retries=0)
    assert "the server may need TLS (its CA is missing here), or a client certificate of a CA that it trusts" in error.message


@pytest.mark.parametrize("how", ["Socket closed", "Connection reset by peer", "Broken pipe"])
def test_connection_that_is_closed_before_the_first_call_has_a_hint_however_it_ends(how: str) -> None:
    assert closed_cause(f"failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: {how}").startswith(
        "the server may"
    )
    assert closed_cause(how) == "", "closed during a call"


def test_waiting_ends_at_once_if_tls_fails(make_client: Any, files: Files) -> None:
    with secured(files) as server, pytest.raises(TlsFailed):
        make_client(server.address, credentials=tls_credentials(ca_file(files, trustme.CA()))).wait_ready(30)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"ca": "garbage"}, "no certificates in PEM form"),
        ({"ca": "\xff"}, "no certificates in PEM form"),
        ({"ca": ""}, "no certificates in PEM form"),
        ({"cert": "x"}, "must be given together"),
        ({"cert": "x", "key": "y"}, "are not a certificate and its key in PEM form"),
    ],
)
def test_files_that_are_no_credentials(tmp_path: Path, content: dict[str, str], fault: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=fault):
        tls_credentials(**{name: str(tmp_path / name) for name in content})


# --- Tokens ---


def test_token_is_sent_with_every_call(make_client: Any, server: FakeServer) -> None:
    client = make_client(token="t-1", client_id="me")
    client.translate("x")
    list(client.translate_stream("x"))
    list(client.translate_many(["x"]))
    assert server.translation.tokens == ["Bearer t-1"] * 3
    assert server.translation.clients == ["me"] * 3


@pytest.mark.parametrize("token", ["a b", "a\n", "ä", "x" * 4097])
def test_token_that_no_header_can_carry(make_client: Any, token: str) -> None:
    with pytest.raises(ValueError, match="token must be") as raised:
        make_client(token=token)
    assert token not in str(raised.value)


def test_token_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t-1\n", encoding="utf-8")
    assert read_token(file) == "t-1"
    for text in ("", "a b", "ä"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="must hold one token"):
            read_token(file)


# --- The command line and the environment ---


def test_command_line(files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    own, token = own_files(files), files.folder / "token"
    token.write_text("t-1\n", encoding="utf-8")
    flags = ["--ca", ca_file(files), "--cert", own[0], "--key", own[1], "--token-file", str(token)]
    with secured(files, is_mutual=True) as server:
        assert main(["translate", "x", "--address", server.address, *flags]) == 0
        assert main(["models", "--address", server.address, *flags]) == 0
        for variable, value in zip(("CA", "CERT", "KEY", "TOKEN_FILE"), flags[1::2], strict=True):
            monkeypatch.setenv(f"ATTNSERVE_{variable}", value)
        assert main(["translate", "x", "--address", server.address]) == 0
        assert server.translation.tokens == ["Bearer t-1"] * 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flag", ["--ca", "--cert", "--token-file"])
def test_file_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert main(["models", flag, "/nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot connect to 127.0.0.1:8001: ")
    assert error.count("\n") == 1
    assert "Errno" not in error


def test_environment() -> None:
    environ = {"ATTNSERVE_CA": "a", "ATTNSERVE_CERT": "b", "ATTNSERVE_KEY": "c", "ATTNSERVE_TOKEN_FILE": "d"}
    assert Security.from_environment(environ) == Security("a", "b", "c", "d")
    assert Security.from_environment({}).credentials() is None
    assert Security.from_environment({}).token() == ""
