# SPDX-License-Identifier: Apache-2.0
"""TLS and mTLS of gRPC: which connections are refused, and certificates that are replaced while the server runs."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from attnserve_server.config_trust import TlsConfig, TokensConfig
from attnserve_server.errors import ConfigError, TrustError
from attnserve_server.transport.trust import Trust
from tests.fakes.trust import Files, TrustRecorder, chain_of, replace, seconds_from_now
from tests.unit.server_shell.conftest import Shell, ShellFactory, until

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
CLOSED = "Socket closed|Connection reset by peer|Broken pipe"
"""What a client says of a connection that the server has closed: it depends on what either had sent by then."""


def trust_of(files: Files, recorder: TrustRecorder | None = None, **rest: Any) -> Trust:
    return Trust(files.config, TokensConfig(), recorder or TrustRecorder(), **rest)


def channel_to(shell: Shell, credentials: grpc.ChannelCredentials | None, host: str = "localhost") -> grpc.aio.Channel:
    target = f"{host}:{shell.port}"
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=OWN_CONNECTION)
    return grpc.aio.secure_channel(target, credentials, options=OWN_CONNECTION)


async def ask(channel: grpc.aio.Channel) -> str:
    stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    answer = await stub.Translate(translation_pb2.TranslateRequest(text="ja"), timeout=30)
    return str(answer.hypotheses[0].text)


async def outcome(shell: Shell, credentials: grpc.ChannelCredentials | None, host: str = "localhost") -> str:
    """The answer to one call on a connection of its own, or its status and details."""
    async with channel_to(shell, credentials, host) as channel:
        try:
            return await ask(channel)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"


async def test_answers_over_tls(make_shell: ShellFactory, tmp_path: Path) -> None:
    files, recorder = Files(tmp_path), TrustRecorder()
    shell = await make_shell(trust=trust_of(files, recorder))
    assert await outcome(shell, files.credentials()) == "JA"
    assert await outcome(shell, files.credentials(), "127.0.0.1") == "JA"
    assert recorder.counted == {"handshakes": 2}
    assert recorder.expiry == {"server": expiry_of(files.cert)}
    assert {ticket.terms.client for ticket in shell.front.tickets} == {"ipv4:127.0.0.1"}


def expiry_of(cert: trustme.LeafCert) -> float:
    return x509.load_pem_x509_certificate(chain_of(cert)).not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    ("credentials", "text"),
    [
        (lambda files: files.credentials(files.client(), ca=trustme.CA()), "CERTIFICATE_VERIFY_FAILED"),
        (lambda files: files.credentials(), CLOSED),
        (lambda files: files.credentials(files.client(trustme.CA())), CLOSED),
        (lambda files: None, CLOSED),
    ],
    ids=["client trusts another CA", "no client certificate", "client certificate of another CA", "no TLS"],
)
async def test_connection_that_is_refused_is_unavailable_and_reaches_no_method(
    make_shell: ShellFactory, tmp_path: Path, credentials: Callable[[Files], Any], text: str
) -> None:
    files, recorder = Files(tmp_path, is_mutual=True), TrustRecorder()
    shell = await make_shell(trust=trust_of(files, recorder))
    answer = await outcome(shell, credentials(files))
    assert answer.startswith("UNAVAILABLE: ")
    assert re.search(text, answer)
    assert recorder.counted["handshakes"] >= 1
    assert shell.recorder.counted == []
    assert await outcome(shell, files.credentials(files.client())) == "JA"


async def test_identity_in_the_certificate_is_the_client(make_shell: ShellFactory, tmp_path: Path) -> None:
    files = Files(tmp_path, is_mutual=True)
    shell = await make_shell(trust=trust_of(files))
    for client_id in ("one", "two"):
        async with channel_to(shell, files.credentials(files.client())) as channel:
            stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
            await stub.Translate(translation_pb2.TranslateRequest(text="ja"), metadata=(("x-client-id", client_id),))
    assert [ticket.terms.client for ticket in shell.front.tickets] == ["certificate:robot@example.org"] * 2
    assert [ticket.terms.part for ticket in shell.front.tickets] == ["one", "two"]


async def test_certificate_that_expires_while_it_is_served_is_refused_by_clients(make_shell: ShellFactory, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.issue(not_after=seconds_from_now(6))  # enough for a first answer
    shell, answers = await make_shell(trust=trust_of(files)), list[str]()
    async with asyncio.timeout(60):
        while not answers or answers[-1] == "JA":
            answers.append(await outcome(shell, files.credentials()))
            await asyncio.sleep(0.05)
    assert answers[0] == "JA"
    assert answers[-1].startswith("UNAVAILABLE: ")
    assert "certificate has expired" in answers[-1]


# --- Replaced certificates ---


async def test_certificates_replaced_under_load_fail_no_call(make_shell: ShellFactory, tmp_path: Path) -> None:
    files, recorder = Files(tmp_path), TrustRecorder()
    trust = trust_of(files, recorder, period_s=0.005)
    shell, answers, is_over = await make_shell(trust=trust), list[str](), asyncio.Event()

    async def new_connections() -> None:
        while not is_over.is_set():
            answers.append(await outcome(shell, files.credentials()))

    async def one_connection() -> None:
        async with channel_to(shell, files.credentials()) as channel:
            while not is_over.is_set():
                answers.append(await ask(channel))

    trust.start()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        for client in (new_connections, new_connections, one_connection):
            tasks.create_task(client())
        for number in range(1, 6):
            files.issue()
            await until(lambda number=number: recorder.expiry["server"] == expiry_of(files.cert) and len(answers) > 10 * number)
        is_over.set()
    await trust.stop()
    assert set(answers) == {"JA"}
    assert recorder.counted["certificates reloaded"] >= 5
    assert await served_serial(shell) == x509.load_pem_x509_certificate(chain_of(files.cert)).serial_number


async def served_serial(shell: Shell) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", shell.port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


def with_password(key: bytes) -> bytes:
    loaded = load_pem_private_key(key, None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


FAULTS: dict[str, Callable[[Files], object]] = {
    "garbage for a certificate": lambda files: replace(files.chain, b"\x00garbage\xff" * 100),
    "nothing for a certificate": lambda files: replace(files.chain, b""),
    "half a certificate": lambda files: replace(files.chain, files.chain.read_bytes()[:300]),
    "no certificate": lambda files: files.chain.unlink(),
    "a huge certificate": lambda files: replace(files.chain, files.chain.read_bytes() * 2000),
    "garbage for a key": lambda files: replace(files.key, b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----\n"),
    "another certificate's key": lambda files: replace(files.key, trustme.CA().issue_cert("x").private_key_pem.bytes()),
    "a key with a password": lambda files: replace(files.key, with_password(files.key.read_bytes())),
    "an expired certificate": lambda files: files.issue(not_before=seconds_from_now(-99), not_after=seconds_from_now(-9)),
    "a certificate of tomorrow": lambda files: files.issue(not_before=seconds_from_now(99), not_after=seconds_from_now(999)),
    "garbage for a client CA": lambda files: replace(files.ca_file, b"garbage"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_files_that_cannot_be_used_are_refused_and_the_old_ones_stay(
    make_shell: ShellFactory, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    files, recorder = Files(tmp_path, is_mutual=True), TrustRecorder()
    trust = trust_of(files, recorder)
    shell, client, expiry = await make_shell(trust=trust), files.credentials(files.client()), expiry_of(files.cert)
    FAULTS[name](files)
    for _ in range(3):
        trust.check()
    assert recorder.counted["certificates failed"] == 1, "a fault is counted once"
    assert "the previous ones stay in use" in caplog.text
    assert str(tmp_path) in caplog.text
    assert "PRIVATE KEY" not in caplog.text
    assert await outcome(shell, client) == "JA"
    assert recorder.expiry["server"] == expiry
    files.issue()
    files.trust_clients_of(files.client_ca)
    trust.check()
    assert recorder.counted["certificates reloaded"] == 1
    assert await outcome(shell, files.credentials(files.client())) == "JA"
    FAULTS[name](files)
    with pytest.raises(TrustError, match=str(tmp_path)):
        trust_of(files)


async def test_client_ca_that_is_replaced_refuses_the_old_clients(make_shell: ShellFactory, tmp_path: Path) -> None:
    files, recorder = Files(tmp_path, is_mutual=True), TrustRecorder()
    trust = trust_of(files, recorder)
    shell, old = await make_shell(trust=trust), files.client()
    async with channel_to(shell, files.credentials(old)) as kept:
        assert await ask(kept) == "JA"
        files.trust_clients_of(trustme.CA())
        trust.check()
        assert (await outcome(shell, files.credentials(old))).startswith("UNAVAILABLE: ")
        assert await outcome(shell, files.credentials(files.client())) == "JA"
        assert await ask(kept) == "JA", "open connections stay"


async def test_changed_files_are_noticed_without_a_signal(make_shell: ShellFactory, tmp_path: Path) -> None:
    files, recorder = Files(tmp_path), TrustRecorder()
    trust = trust_of(files, recorder, period_s=0.005)
    trust.start()
    replace(files.key, b"garbage")
    await until(lambda: recorder.counted["certificates failed"] == 1)
    files.issue()
    await until(lambda: recorder.expiry["server"] == expiry_of(files.cert))
    await trust.stop()


@pytest.mark.parametrize(
    "config", [TlsConfig(certificate="a"), TlsConfig(key="a"), TlsConfig(client_ca="a")], ids=lambda each: str(each)
)
def test_tls_that_is_half_configured_is_refused(config: TlsConfig) -> None:
    with pytest.raises(ConfigError, match=r"tls\."):
        Trust(config, TokensConfig(), TrustRecorder())
