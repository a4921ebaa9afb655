# SPDX-License-Identifier: Apache-2.0
"""Messages that cannot be parsed, and the field at fault."""

from __future__ import annotations

import pytest

from attnserve.v1 import translation_pb2
from attnserve_server.errors import InvalidRequest
from attnserve_server.transport.rpc.parse import parse_request

REQUEST = translation_pb2.TranslateRequest
TEXT, MODEL, OPTIONS = 1, 2, 4
PREFIX = 10


def field(number: int, data: bytes) -> bytes:
    """One length-delimited field on the wire."""
    assert number < 16
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def test_good_requests_are_parsed() -> None:
    request = REQUEST(text="zwei Hunde", model="m")
    assert parse_request(REQUEST, request.SerializeToString()) == request
    assert parse_request(REQUEST, b"") == REQUEST()


def test_unknown_fields_are_let_through() -> None:
    assert parse_request(REQUEST, field(TEXT, b"a") + field(15, b"\xff")).text == "a"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (field(TEXT, b"\xff\xfe"), "text"),
        (field(TEXT, b"caf\xe9"), "text"),
        (field(TEXT, b"\xed\xa0\x80"), "text"),  # half a surrogate pair
        (field(TEXT, b"\xc0\x80"), "text"),  # NUL in two bytes
        (field(TEXT, b"ok") + field(MODEL, b"\x80"), "model"),
        (field(OPTIONS, field(PREFIX, b"\xc3")), "options.prefix"),
        (field(TEXT, b"ok") + field(OPTIONS, b"\x08\x01" + field(PREFIX, b"a\xffb")), "options.prefix"),
        (field(OPTIONS, field(PREFIX, b"ok")) + field(TEXT, b"\xff"), "text"),
    ],
)
def test_invalid_utf8_names_the_field(data: bytes, path: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_request(REQUEST, data)
    assert raised.value.field == path
    assert raised.value.message == f"{path} must be UTF-8"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a", field(OPTIONS, b"\xff"), b"\x07", b"garbage"])
def test_other_garbage_names_the_message(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"attnserve\.v1\.TranslateRequest") as raised:
        parse_request(REQUEST, data)
    assert raised.value.field is None
