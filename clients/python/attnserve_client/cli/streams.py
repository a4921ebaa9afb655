# SPDX-License-Identifier: Apache-2.0
"""Standard streams that fail with an ``OSError`` where they cannot be used, and encode any text."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from attnserve_client.errors import ToolError

MAX_LINE = 10_000_000
"""Characters of a line that no server takes: the largest value of its ``max_text_chars`` is 1,000,000."""
_BROKEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE, errno.EBADF, errno.EIO})
"""Errors of a stream that is full or closed, or whose device is gone."""
_CLOSED = (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
"""How a stream of a closed descriptor is opened: input and output so that their use fails, errors so that they are dropped."""


def prepare() -> None:
    """Replaces streams that the process was started without, and lets output represent characters that its encoding lacks."""
    for name, flags, mode in _CLOSED:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Flushes the output at the end.

    Raises:
        ToolError: it could not be written.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in _BROKEN or error.filename is not None:
            raise
        abandon(sys.stdout)
        raise ToolError(f"the output cannot be written: {error.strerror}") from error


def abandon(stream: TextIO) -> None:
    """Lets a stream write nowhere, so that what it holds does not fail again when the process ends."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def input_lines() -> Iterator[str]:
    """Yields the lines of standard input, as UTF-8 where its encoding is ASCII.

    What is not valid in its encoding becomes lone surrogates, which no call sends.

    Raises:
        ToolError: it cannot be read, or a line is so long that it is no text.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else None, errors="surrogateescape")
    try:
        while line := sys.stdin.readline(MAX_LINE):
            if len(line) == MAX_LINE and not line.endswith("\n"):
                raise ToolError(f"standard input has a line of {MAX_LINE:,} characters or more: is it text?")
            yield line
    except OSError as error:
        raise ToolError(f"standard input cannot be read: {error.strerror}") from error
