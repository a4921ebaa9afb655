# SPDX-License-Identifier: Apache-2.0
"""Parses requests, and finds the invalid field of one that cannot be parsed. Used by ``calls.py``; must not import grpc."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf import empty_pb2, message, unknown_fields
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from attnserve_server.errors import InvalidRequest

_LENGTH_DELIMITED = 2
_MAX_DEPTH = 100


def parse_request(message_class: type[message.Message], data: bytes) -> message.Message:
    """Parses one request.

    Raises:
        InvalidRequest: the bytes are not a message of this class; names the field if a string is not UTF-8.
    """
    try:
        return message_class.FromString(data)
    except message.DecodeError:
        path = find_invalid_utf8(cast(Descriptor, message_class.DESCRIPTOR), data)
        if path is not None:
            raise InvalidRequest(f"{path} must be UTF-8", field=path) from None
        raise InvalidRequest(f"the request is not a valid {message_class.DESCRIPTOR.full_name} message") from None


def find_invalid_utf8(descriptor: Descriptor, data: bytes, depth: int = 0) -> str | None:
    """Returns the dotted path of the first string field that is not UTF-8, or None.

    protobuf's parser does not report the field. Parsed as an empty message, every field is unknown: its raw bytes can be read and
    compared with the descriptor, level by level.
    """
    try:
        unparsed = empty_pb2.Empty.FromString(data)
    except message.DecodeError:
        return None
    for unknown in cast(Iterable[Any], unknown_fields.UnknownFieldSet(unparsed)):
        field = descriptor.fields_by_number.get(unknown.field_number)
        if field is None or unknown.wire_type != _LENGTH_DELIMITED:
            continue
        if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(unknown.data):
            return field.name
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None and depth < _MAX_DEPTH:
            inner = find_invalid_utf8(field.message_type, unknown.data, depth + 1)
            if inner is not None:
                return f"{field.name}.{inner}"
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
