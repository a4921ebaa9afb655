# SPDX-License-Identifier: Apache-2.0
"""The client of a call, and whether the call is permitted. ``calls.py`` asks before it parses the request.

The client of a call, to which the fair queue gives its share, is the name of its token; without tokens, the identity in its
certificate; without that, the host of its connection. The client's own id (``x-client-id``), or else its connection, only divides
that share.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from google.protobuf.descriptor import MethodDescriptor

from attnserve_server.dataplane.call import Call
from attnserve_server.errors import PermissionDenied, RateLimited, Unauthenticated
from attnserve_server.transport.reload import Reloaded
from attnserve_server.transport.tokens import Scope, Token, TokenBucket, TokenTable, digest_of

TOKEN_KEY = "authorization"
"""Metadata key of the token, as ``Bearer TOKEN``."""

SCOPES: dict[str, Scope] = {
    "attnserve.v1.TranslationService": Scope.INFER,
    "attnserve.v1.CaptionService": Scope.INFER,
    "attnserve.v1.SegmentationService": Scope.INFER,
    "attnserve.v1.ClassificationService": Scope.INFER,
    "attnserve.v1.GenerationService": Scope.INFER,
    "attnserve.v1.ModelService/ListModels": Scope.READ,
    "attnserve.v1.ModelService/GetModel": Scope.READ,
}
"""The scope of each service or method; any other one needs ``admin``."""

_PORT = re.compile(r":\d+\Z")
_BEARER = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)


def scope_of(method: MethodDescriptor) -> Scope:
    """Returns the scope that a method needs."""
    service = method.containing_service.full_name
    return SCOPES.get(f"{service}/{method.name}") or SCOPES.get(service, Scope.ADMIN)


@functools.lru_cache(maxsize=4096)
def host_of(peer: str) -> str:
    """Returns a peer without its port ("ipv4:127.0.0.1:5000": "ipv4:127.0.0.1"); a Unix socket's has none."""
    return _PORT.sub("", peer) if peer.startswith("ip") else peer


class Access:
    """Names the client of each call, and refuses calls that its token does not permit.

    Args:
        tokens: the tokens; None if calls need none.
        has_certificates: whether connections have a client's certificate, which TLS has verified.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        tokens: Reloaded[TokenTable] | None = None,
        *,
        has_certificates: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens, self._has_certificates, self._clock = tokens, has_certificates, clock
        self._buckets: dict[str, TokenBucket] = {}
        self._buckets_of: TokenTable | None = None
        """The tokens to which the buckets belong."""

    def check(self, call: Call, context: Any, metadata: Iterable[tuple[str, Any]], scope: Scope) -> None:
        """Sets the client of a call.

        Raises:
            Unauthenticated: it has no token, or an unknown one.
            PermissionDenied: its token does not have this scope.
            RateLimited: its token's calls of this second are used up.
        """
        if self._has_certificates:
            identities = cast("list[bytes] | None", context.peer_identities())
            if identities:
                call.client = f"certificate:{identities[0].decode('utf-8', 'replace')}"
        if self._tokens is None:
            return
        table = self._tokens.value
        token = table.get(digest_of(_token_of(metadata)))
        if token is None:
            raise Unauthenticated("the token is not known to this server")
        call.client = f"token:{token.name}"
        if scope not in token.scopes:
            raise PermissionDenied(f"the token must have the scope {scope.value} for this call")
        if token.rate is not None:
            self._take(table, token, token.rate)

    def _take(self, table: TokenTable, token: Token, rate: float) -> None:
        if table is not self._buckets_of:
            rates = {each.name: each.rate for each in table.values()}
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if rates.get(name) == bucket.rate}
            self._buckets_of = table
        bucket = self._buckets.get(token.name)
        if bucket is None:
            bucket = self._buckets[token.name] = TokenBucket(rate, self._clock)
        wait_s = bucket.take()
        if wait_s:
            raise RateLimited(f"the token permits {rate:g} calls a second", retry_after_s=wait_s)


def _token_of(metadata: Iterable[tuple[str, Any]]) -> str:
    """Returns the token of a call.

    Raises:
        Unauthenticated: it has none, or more than one.
    """
    values = [value for key, value in metadata if key == TOKEN_KEY]
    found = _BEARER.fullmatch(values[0]) if len(values) == 1 and isinstance(values[0], str) else None
    if found is None:
        raise Unauthenticated(f"the call must have a token: {TOKEN_KEY}: Bearer TOKEN")
    return found[1]
