# SPDX-License-Identifier: Apache-2.0
"""A server process with TLS, client certificates and tokens: every client of the project speaks to it, and others are refused."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from attnserve_client import AttnserveError, Client, PermissionDenied, RateLimited, Unauthenticated, tls_credentials
from attnserve_client.security import Security
from attnserve_loadtest import server_side
from attnserve_loadtest.bench.servers import STREAM, UNARY, closed_loop
from tests.e2e.serving import SENTENCES, Samples, Server, default_model_alone, eventually, serve
from tests.fakes.trust import Files, chain_of, replace, token_line

TOKEN, OTHER, READER, SLOW = "token-of-alice-1", "token-of-bob-2", "token-of-carol-3", "token-of-dan-4"
LINES = (
    token_line("alice", TOKEN),
    token_line("bob", OTHER),
    token_line("carol", READER, "read"),
    token_line("dan", SLOW, "infer", "0.01"),
)


@dataclass
class Guarded:
    """The server, its files, and those of a client."""

    server: Server
    files: Files
    tokens: Path
    security: Security
    plain_port: int

    @property
    def address(self) -> str:
        return f"localhost:{self.server.grpc_port}"

    def flags(self) -> list[str]:
        own = self.security
        return ["--ca", own.ca, "--cert", own.cert, "--key", own.key, "--token-file", own.token_file]

    def client(self, token: str = TOKEN, *, retries: int = 0) -> Client:
        credentials = tls_credentials(self.security.ca, self.security.cert, self.security.key)
        return Client(self.address, credentials, token=token, retries=retries)

    def scrape(self) -> Samples:
        plain = Server(self.server.process, 0, self.plain_port, {}, self.server.log)
        return plain.scrape()


def own_files(folder: Path, files: Files) -> Security:
    """The files of a client with a certificate and a token."""
    cert, own = files.client(), Security(*(str(folder / name) for name in ("ca.pem", "own.pem", "own.key", "own.token")))
    for path, content in zip(
        (own.ca, own.cert, own.key, own.token_file),
        (files.ca.cert_pem.bytes(), chain_of(cert), cert.private_key_pem.bytes(), f"{TOKEN}\n".encode()),
        strict=True,
    ):
        Path(path).write_bytes(content)
    return own


def server_flags(files: Files) -> tuple[str, ...]:
    return ("--tls-cert", str(files.chain), "--tls-key", str(files.key), "--tls-client-ca", str(files.ca_file))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("trust")
    files, tokens = Files(folder, is_mutual=True), folder / "tokens"
    tokens.write_text("".join(LINES), encoding="utf-8")
    flags = ("--workers", "1", *server_flags(files), "--tokens", str(tokens))
    with serve(folder, *flags, environment={"ATTNSERVE_HTTP_PLAIN_PORT": "0"}) as server:
        facts = json.loads((folder / "ready.json").read_text())
        yield Guarded(server, files, tokens, own_files(folder, files), facts["plain_http_port"])


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_command_line_speaks_tls_and_tokens(guarded: Guarded) -> None:
    answer = run("attnserve_client.cli", "translate", SENTENCES[0], "--address", guarded.address, *guarded.flags())
    assert answer.strip()
    assert "transformer-en-de" in run("attnserve_client.cli", "models", "--address", guarded.address, *guarded.flags())


def test_locust_users_speak_tls_and_tokens(guarded: Guarded, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{guarded.server.http_port}/metrics"
    flags = ["--users", "2", "--seconds", "2", "--no-sweep", "--results", str(tmp_path), "--metrics-url", url]
    before = guarded.scrape().total("attnserve_requests_total", code="OK")
    run("attnserve_loadtest", "--address", guarded.address, *guarded.flags(), *flags)
    assert guarded.scrape().total("attnserve_requests_total", code="OK") > before
    assert json.loads((tmp_path / "loadtest.json").read_text())


@pytest.mark.parametrize("method", [UNARY, STREAM])
def test_bench_speaks_tls_and_tokens(guarded: Guarded, method: str) -> None:
    load = closed_loop(guarded.address, SENTENCES[:8], method, 4, security=guarded.security)
    assert len(load.answers) == 8


def test_demo_speaks_tls(tmp_path: Path) -> None:
    files = Files(tmp_path, is_mutual=True)
    own, tokens = own_files(tmp_path, files), tmp_path / "tokens"
    tokens.write_text(LINES[0], encoding="utf-8")
    client = ["--ca", own.ca, "--cert", own.cert, "--key", own.key, "--token-file", own.token_file]
    server = [*server_flags(files), "--tokens", str(tokens), "--models", str(default_model_alone(tmp_path)), "--workers", "1"]
    assert "https://127.0.0.1:" in run("attnserve_client.demo", *client, *server)


def test_pages_are_there_with_tls_and_on_the_plain_port(guarded: Guarded) -> None:
    reading = server_side.read(f"https://127.0.0.1:{guarded.server.http_port}/metrics", guarded.security)
    assert reading.total("attnserve_model_ready") == 1
    with pytest.raises(OSError, match="no metrics at"):
        server_side.read(f"https://127.0.0.1:{guarded.server.http_port}/metrics", Security(guarded.security.ca))
    samples = guarded.scrape()
    assert samples.total("attnserve_certificate_expiry_timestamp_seconds", certificate="server") > 1.7e9
    assert samples.total("attnserve_certificate_expiry_timestamp_seconds", certificate="client_ca") > 1.7e9


@pytest.mark.parametrize(
    ("token", "error", "code"),
    [
        ("", Unauthenticated, "UNAUTHENTICATED"),
        ("wrong-token", Unauthenticated, "UNAUTHENTICATED"),
        (READER, PermissionDenied, "PERMISSION_DENIED"),
        (SLOW, RateLimited, "RESOURCE_EXHAUSTED"),
    ],
)
def test_calls_that_the_token_does_not_permit(guarded: Guarded, token: str, error: type[AttnserveError], code: str) -> None:
    before = guarded.scrape()
    with guarded.client(token) as client:
        if token == SLOW:
            client.translate("a dog")
        with pytest.raises(error) as raised:
            client.translate("a dog")
    assert raised.value.code == code
    assert raised.value.reason
    after = guarded.scrape()
    for name, labels in (
        ("attnserve_requests_total", {"code": code}),
        ("attnserve_requests_rejected_total", {"reason": raised.value.reason.lower()}),
    ):
        assert after.total(name, **labels) == before.total(name, **labels) + 1


def reloads(guarded: Guarded) -> float:
    return guarded.scrape().total("attnserve_reloads_total")


def test_certificate_replaced_under_load_fails_no_call(guarded: Guarded) -> None:
    errors, is_over, num_answers = list[Exception](), threading.Event(), [0, 0]
    num_before, num_handshakes = reloads(guarded), guarded.scrape().total("attnserve_tls_handshakes_total")

    def ask(index: int, *, is_reconnecting: bool) -> None:
        try:
            while not is_over.is_set():
                with guarded.client() as client:
                    for _ in range(1 if is_reconnecting else 20):
                        client.translate("a dog")
                        num_answers[index] += 1
        except AttnserveError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(index,), kwargs={"is_reconnecting": bool(index)}) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for number in (1, 2):
        guarded.files.issue()
        wanted = [count + 5 for count in num_answers]
        eventually(lambda number=number: reloads(guarded) >= num_before + number, "a reload", pause=0.1)
        eventually(lambda wanted=wanted: all(map(int.__ge__, num_answers, wanted)), "answers", 30, 0.05)
    is_over.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert guarded.scrape().total("attnserve_tls_handshakes_total") > num_handshakes + 5


def test_broken_files_are_counted_and_the_old_ones_stay(guarded: Guarded) -> None:
    def failures(what: str) -> float:
        return guarded.scrape().total("attnserve_reload_failures_total", what=what)

    num_before = reloads(guarded)
    for what, path in (("certificates", guarded.files.key), ("tokens", guarded.tokens)):
        before, content = failures(what), path.read_bytes()
        replace(path, b"garbage")
        eventually(lambda what=what, before=before: failures(what) == before + 1, "a failed reload", pause=0.1)
        with guarded.client() as client:
            assert client.translate("a dog").text
        replace(path, content)
    eventually(lambda: reloads(guarded) >= num_before + 2, "the good files", pause=0.1)


def test_revoked_token_ends_with_the_next_call(guarded: Guarded) -> None:
    with guarded.client(OTHER) as client, guarded.client() as alice:
        stream = client.translate_stream(" ".join(SENTENCES[:3]), beam_size=1)
        next(stream)
        replace(guarded.tokens, "".join(LINES[:1]).encode())

        def is_refused() -> bool:
            try:
                client.translate("a dog")
            except Unauthenticated:
                return True
            return False

        eventually(is_refused, "the refusal", pause=0.05)
        assert list(stream)[-1].text
        assert alice.translate("a dog").text
        replace(guarded.tokens, "".join(LINES).encode())
        eventually(lambda: not is_refused(), "the token's return", pause=0.05)


def test_log_has_no_token(guarded: Guarded) -> None:
    for token in (TOKEN, READER, "wrong-token"):
        with guarded.client(token) as client, contextlib.suppress(Unauthenticated, PermissionDenied):
            client.translate("a dog")
    eventually(lambda: "UNAUTHENTICATED" in guarded.server.log.read_text(errors="replace"), "the last call's line")
    log = guarded.server.log.read_text(errors="replace")
    assert not [token for token in (TOKEN, OTHER, READER, SLOW, "wrong-token") if token in log]
    assert "PRIVATE KEY" not in log


def test_start_with_another_key_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    replace(files.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    command = [sys.executable, "-m", "attnserve_server", "--tls-cert", str(files.chain), "--tls-key", str(files.key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "not the key of the certificate in" in done.stderr
