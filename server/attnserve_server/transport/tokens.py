# SPDX-License-Identifier: Apache-2.0
"""Tokens: the file that names them, and the rate of each.

A line of the file is ``NAME SHA256 [SCOPES [RATE]]``: a name without spaces, the SHA-256 of the token in hexadecimal, scopes with
commas between them (default: ``infer,read``), and calls a second (default: no limit). ``#`` begins a comment. The file has no
secrets: tokens are random, so their hashes cannot be inverted.
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attnserve_server.errors import TrustError
from attnserve_server.transport.reload import read_file

MAX_FILE_BYTES = 4_000_000
"""Larger files of tokens are refused."""

MAX_RATE = 1e6

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Scope(enum.Enum):
    """What a token permits."""

    INFER = "infer"
    READ = "read"
    ADMIN = "admin"


DEFAULT_SCOPES = frozenset({Scope.INFER, Scope.READ})


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the file.

    Attributes:
        name: names the client in the fair queue.
        scopes: calls that it permits.
        rate: calls a second; None for no limit.
    """

    name: str
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    rate: float | None = None


TokenTable = Mapping[bytes, Token]
"""Tokens by their SHA-256. A look-up by hash takes the same time for every wrong token, however similar to a right one."""


def digest_of(token: str) -> bytes:
    """Returns the key of a token in a :data:`TokenTable`."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(file: Path) -> TokenTable:
    """Reads a file of tokens.

    Raises:
        TrustError: the file cannot be read, has an invalid line, which is named by its number, or has no token.
    """
    try:
        text = read_file(file, MAX_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise TrustError(f"{file}: not UTF-8") from None
    table: dict[bytes, Token] = {}
    names: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            digest, token = _parsed(words)
        except ValueError as problem:
            raise TrustError(f"{file}: line {number}: {problem}") from None
        if token.name in names or digest in table:
            raise TrustError(f"{file}: line {number}: the name or the SHA-256 is already there")
        names.add(token.name)
        table[digest] = token
    if not table:
        raise TrustError(f"{file}: no token")
    return table


def _parsed(words: list[str]) -> tuple[bytes, Token]:
    if not 2 <= len(words) <= 4:
        raise ValueError("must be NAME SHA256 [SCOPES [RATE]]")
    name, digest, scopes = words[0], words[1], DEFAULT_SCOPES
    if not _NAME.fullmatch(name):
        raise ValueError("the name must be 1 to 64 letters, digits or . _ @ + -, and begin with a letter or a digit")
    if not _SHA256.fullmatch(digest):
        raise ValueError("the SHA-256 must be 64 hexadecimal digits")
    if len(words) > 2:
        try:
            scopes = frozenset(Scope(scope) for scope in words[2].split(","))
        except ValueError:
            raise ValueError(f"scopes are {', '.join(scope.value for scope in Scope)}, with commas between them") from None
    rate = _rate(words[3]) if len(words) > 3 else None
    return bytes.fromhex(digest), Token(name, scopes, rate)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"the rate must be a number of calls a second, above 0 and at most {MAX_RATE:g}")
    return rate


class TokenBucket:
    """The rate of one token: it may make a second's worth of calls at once, and at least one.

    Args:
        rate: calls a second.
        clock: monotonic seconds.
    """

    __slots__ = ("_at", "_clock", "_left", "_most", "rate")

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate, self._clock = rate, clock
        self._most = self._left = max(1.0, rate)
        self._at = clock()

    def take(self) -> float:
        """Takes one call; returns 0, or the seconds until the next call if there is none left."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self.rate
        self._left -= 1.0
        return 0.0
