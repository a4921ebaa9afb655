# SPDX-License-Identifier: Apache-2.0
"""Finds the files of external data that an ONNX file names, without an ONNX library.

ONNX Runtime opens these files itself, so the loader must know their names before a session is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from google.protobuf import empty_pb2, message, unknown_fields

_LENGTH_DELIMITED = 2
_TENSOR, _EXTERNAL_DATA, _KEY, _VALUE = "tensor", 13, 1, 2
_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
"""Messages of onnx.proto that may contain tensors: the inner messages by field number."""


def external_files(model: bytes) -> set[str]:
    """Returns every location of external data in a serialized ``ModelProto``; empty for bytes that are no message.

    Bytes that cannot be decoded as UTF-8 are replaced, so that the name is that of no file.
    """
    found: set[str] = set()
    waiting = [("model", model)]
    while waiting:
        kind, data = waiting.pop()
        for number, inner in _fields(data):
            if kind != _TENSOR and number in _INNER[kind]:
                waiting.append((_INNER[kind][number], inner))
            elif kind == _TENSOR and number == _EXTERNAL_DATA:
                entry = list(_fields(inner))
                if (_KEY, b"location") in entry:
                    found |= {value.decode("utf-8", "replace") for field, value in entry if field == _VALUE}
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields number and content of each length-delimited field. Parsed as an empty message, every field is unknown."""
    try:
        unparsed = empty_pb2.Empty.FromString(data)
    except message.DecodeError:
        return
    for field in cast(Iterable[Any], unknown_fields.UnknownFieldSet(unparsed)):
        if field.wire_type == _LENGTH_DELIMITED:
            yield field.field_number, field.data
