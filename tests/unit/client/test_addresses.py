# SPDX-License-Identifier: Apache-2.0
"""Addresses that a client accepts, and what it says of others."""

from __future__ import annotations

import pytest

from attnserve_client import Client
from attnserve_client.cli import main
from tests.fakes.server import FakeServer

GOOD = [
    "127.0.0.1:8001",
    "localhost:1",
    "a-b.example.org:65535",
    "[::1]:8001",
    "[fe80::1%eth0]:8001",
    "dns:///host:8001",
    "dns:host:8001",
    "dns://127.0.0.1:53/host:8001",
    "ipv4:127.0.0.1:8001,127.0.0.1:8002",
    "unix:/tmp/x",
]
BAD = {
    "127.0.0.1:99999": "number from 1 to 65535, not '99999'",
    "127.0.0.1:65536": "number from 1 to 65535, not '65536'",
    "127.0.0.1:0": "number from 1 to 65535, not '0'",
    "127.0.0.1:-1": "number from 1 to 65535, not '-1'",
    "127.0.0.1:http": "number from 1 to 65535, not 'http'",
    "127.0.0.1:٨٠٠١": "number from 1 to 65535, not '٨٠٠١'",
    "127.0.0.1:": "number from 1 to 65535, not ''",
    "127.0.0.1": "must be host:port, such as 127.0.0.1:8001",
    ":8001": "must be host:port, such as 127.0.0.1:8001",
    "": "must be host:port, such as 127.0.0.1:8001",
    "a b:8001": "must be host:port, such as 127.0.0.1:8001",
    "host/path:8001": "must be host:port, such as 127.0.0.1:8001",
    "::1": "an IPv6 host in brackets ([::1]:8001)",
    "fe80::1:8001": "an IPv6 host in brackets ([::1]:8001)",
    "dns://host:8001": "must be dns:///host:port, with three slashes, not 'dns://host:8001'",
    "dns:///host": "must be dns:///host:port, such as dns:///127.0.0.1:8001, not 'dns:///host'",
    "dns:8001": "must be dns:///host:port",
    "dns:///host:0": "number from 1 to 65535, not '0' as in 'dns:///host:0'",
    "tcp://10.0.0.1:8001": "without tcp://: '10.0.0.1:8001' instead of 'tcp://10.0.0.1:8001'",
    "http://host:8001/": "without http://: 'host:8001' instead of 'http://host:8001/'",
}


@pytest.mark.parametrize("address", GOOD)
def test_address_is_accepted(address: str) -> None:
    with Client(address) as client:
        assert client.address == address


@pytest.mark.parametrize("address", BAD)
def test_client_says_what_is_wrong_with_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="address") as raised:
        Client(address)
    assert BAD[address] in str(raised.value)


@pytest.mark.parametrize("command", [["translate", "x"], ["models"], ["caption", "x"], ["segment", "x"], ["evaluate", "lengths"]])
def test_command_line_says_what_is_wrong_with_a_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("ATTNSERVE_ADDRESS", "tcp://10.0.0.1:8001")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(command) == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "ATTNSERVE_ADDRESS" in shown
    assert "without tcp://: '10.0.0.1:8001' instead of" in shown


def test_empty_variable_means_the_default(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTNSERVE_ADDRESS", "")
    monkeypatch.setenv("ATTNSERVE_DATA", "")
    assert main(["evaluate", "translation"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["translate", "a dog", "--address", server.address]) == 0
    assert main(["translate", "a dog", "--timeout", "0.1"]) != 2, "no address was named, so the default one is asked"
