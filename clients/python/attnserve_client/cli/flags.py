# SPDX-License-Identifier: Apache-2.0
"""Flags of a command for fields of a request, so that an error of a call names what was typed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import get_type_hints

import typer

from attnserve.v1 import decoding_pb2
from attnserve_client.cli.options import WITHOUT_OPTION, flag_of
from attnserve_client.options import DecodeKeywords

_OF_SAMPLING = decoding_pb2.SamplingOptions.DESCRIPTOR.fields_by_name
_SAMPLING = tuple(flag_of(name) for name in _OF_SAMPLING)

FLAGS: Mapping[str, tuple[str, ...]] = {
    "model": ("--model", "--against", "--judge"),
    "priority": ("--priority",),
    "split_sentences": ("--split-sentences",),
    "class_name": ("--class",),
    "count": ("--count",),
    "seed": ("--seed",),
    "top_k": ("--top-k",),
    "queries": ("--query", "--at"),
    "attention_at": ("--at",),
    "return_attention": ("--attention",),
    "return_unary": ("--attention", "--query"),
    "return_pictures": ("--attention",),
    "options.return_attention": ("--attention", "--show-attention"),
    "options.sampling": ("--sample", *_SAMPLING),
} | {
    f"options.{'sampling.' * (name in _OF_SAMPLING)}{name}": (flag_of(name),)
    for name in get_type_hints(DecodeKeywords)
    if name not in WITHOUT_OPTION
}
"""Flags that set each field of a request; a command has some of them."""

_PATH = re.compile(r"(?<![\w.'\"/-])[a-z]\w*(?:\[\d+\])?(?:\.[a-z]\w*)*(?![\w'\"/-])")
"""A field's path, or a word, that is not part of a quoted name or of a file's."""
_PLACE = re.compile(r"(\w+)(?:\[(\d+)\])?(?:\.(\w+))?")
"""A field that is repeated or a message: its name, its index, and a field of it."""
_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}

_current: ContextVar[Mapping[str, bool]] = ContextVar("flags of the command", default=MappingProxyType({}))
"""Flags of the running command, each with whether it was given."""


@contextlib.contextmanager
def of_command(context: typer.Context) -> Iterator[None]:
    """Makes a command's flags those that errors name."""
    found: dict[str, bool] = {}
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        found |= dict.fromkeys(each.opts, source is not None and source.name == "COMMANDLINE")
    token = _current.set(found)
    try:
        yield
    finally:
        _current.reset(token)


def flag_for(field: str) -> str:
    """Returns the command's flags for a field, in words: those that were given, or else all; empty if it has none.

    Args:
        field: path of the field, such as ``options.beam_size`` or ``queries[0].x``.
    """
    place = None if field in FLAGS else _PLACE.fullmatch(field)
    name, index, part = place.groups() if place is not None else (field, None, None)
    existing = [flag for flag in FLAGS.get(name, ()) if flag in _current.get()]
    flags = " or ".join([flag for flag in existing if _current.get()[flag]] or existing)
    if flags and index is not None:
        number = int(index) + 1
        flags = f"the {_ORDINALS.get(number, f'{number}th')} {flags}"
    return f"{part} of {flags}" if flags and part is not None else flags


def explained(message: str, field: str | None) -> tuple[str, str]:
    """Returns the message of an error with flags in the places of fields, and the field if the message lacks it.

    Args:
        message: from the server or the client; it begins with the field's path or the last part of that, or has neither.
        field: path of the invalid field, if there is one.
    """
    text = _PATH.sub(lambda found: _named(found, field), message)
    if not field:
        return text, ""
    flag = flag_for(field)
    if flag:
        return text, "" if flag in text else flag
    return text, "" if re.search(rf"(?<![\w.]){re.escape(field)}(?!\w)", text) else f"field {field}"


def _named(found: re.Match[str], field: str | None) -> str:
    """Returns the flag for a path, or the path itself; words that are also names of fields are kept, except at the start."""
    path = found[0]
    if field and found.start() == 0 and path in (field, field.rpartition(".")[2]):
        return flag_for(field) or path
    if path.startswith("options."):
        return flag_for(path) or path
    return (flag_for(path) or flag_for(f"options.{path}") or path) if "_" in path else path
