# SPDX-License-Identifier: Apache-2.0
"""Sets fields of requests; a value that cannot be sent is an ``InvalidRequest`` that says what can be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from attnserve_client.errors import InvalidRequest

_M = TypeVar("_M", bound=Message)

_RANGES = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}
"""Values of the types of integers, both ends included."""
_KINDS = {
    Field.CPPTYPE_STRING: "a string",
    Field.CPPTYPE_BOOL: "True or False",
    Field.CPPTYPE_FLOAT: "a number",
    Field.CPPTYPE_DOUBLE: "a number",
} | {kind: f"an integer from {low} to {high}" for kind, (low, high) in _RANGES.items()}
_SHOWN_BITS = 128
"""Bits of an integer whose digits are shown."""
_BYTES = range(0xDC80, 0xDD00)
"""Lone surrogates that stand for bytes that are not UTF-8 (PEP 383)."""


def new_request(kind: type[_M], model: str | None, version: str | None, **fields: Any) -> _M:
    """Returns a request to a model; None for ``model`` or ``version`` is as the empty string.

    Raises:
        InvalidRequest: ``model`` or ``version`` is not a string that can be sent.
    """
    request = kind(**fields)
    for name, value in (("model", model), ("version", version)):
        if value is not None:
            set_field(request, name, value)
    return request


def set_fields(request: Message, values: Mapping[str, Any]) -> None:
    """Sets fields of a request by their names.

    Raises:
        InvalidRequest: there is no such field, or it has a value that cannot be sent.
    """
    for name, value in values.items():
        set_field(request, name, value)


def set_field(message: Message, name: str, value: Any, path: str = "") -> None:
    """Sets one field of a message.

    Args:
        message: a request, or a part of one.
        name: the field's name.
        value: of any type.
        path: of the field in the request, for the error; its name if empty.

    Raises:
        InvalidRequest: there is no such field, or it has a value that cannot be sent.
    """
    try:
        setattr(message, name, value)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{name} {_problem(message, name, value, error)}", field=path or name) from error


def _problem(message: Message, name: str, value: Any, error: Exception) -> str:
    """Returns in words what is wrong with a value."""
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if isinstance(error, UnicodeEncodeError):
        return f"is not valid Unicode: {_surrogate(error)}"
    if field is None or field.cpp_type not in _KINDS:
        return f"cannot be {value!r}: {error}"
    wanted = _KINDS[field.cpp_type]
    if isinstance(error, OverflowError):
        return f"must be {wanted} within ±{sys.float_info.max:.2g}; it is {_shown(value)}"
    is_outside = field.cpp_type in _RANGES and isinstance(value, int | float)
    return f"must be {wanted}; it is {_shown(value)}" if is_outside else f"must be {wanted}, not {type(value).__name__}"


def _shown(value: float) -> str:
    """Returns a number in words, short also where Python refuses to print its digits."""
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"an integer of {value.bit_length():,} bits"
    return str(value)


def _surrogate(error: UnicodeEncodeError) -> str:
    """Returns in words which character of a text cannot be sent."""
    code = ord(error.object[error.start])
    what = f"byte 0x{code - 0xDC00:02x}, which is not UTF-8" if code in _BYTES else f"lone surrogate U+{code:04X}"
    return f"character {error.start + 1} is the {what}"
