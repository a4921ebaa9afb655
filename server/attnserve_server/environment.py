# SPDX-License-Identifier: Apache-2.0
"""Environment variables that set the configuration, apart from others with the same prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attnserve_server.errors import ConfigError

PREFIX = "ATTNSERVE_"
FOREIGN_VARIABLES = frozenset(f"{PREFIX}{name}" for name in ("DATA", "RUNS", "ADDRESS", "CA", "CERT", "KEY", "TOKEN_FILE"))
"""Variables with our prefix that belong to other commands."""

_URL, _ADDRESS, _NUMBER = r"(?:tcp|udp|sctp)://\S*", r"[0-9a-fA-F.:]+", r"\d+"
_LINKS = (
    (r"_SERVICE_HOST", _ADDRESS),
    (r"_SERVICE_PORT(?:_[A-Z0-9_]+)?", _NUMBER),
    (r"_PORT(?:_\d+_(?:TCP|UDP|SCTP))?", _URL),
    (r"_PORT_\d+_(?:TCP|UDP|SCTP)_ADDR", _ADDRESS),
    (r"_PORT_\d+_(?:TCP|UDP|SCTP)_PORT", _NUMBER),
    (r"_PORT_\d+_(?:TCP|UDP|SCTP)_PROTO", r"tcp|udp|sctp"),
)
_LINK = "|".join(rf"ATTNSERVE(?:_[A-Z0-9_]+)?{name}=(?:{value})" for name, value in _LINKS)


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Returns the variables that Kubernetes sets for services whose names begin with ``attnserve``, by name and value.

    A pod has them for every service of its namespace (``enableServiceLinks``): ``ATTNSERVE_SERVICE_HOST``,
    ``ATTNSERVE_PORT=tcp://…``, ``ATTNSERVE_GRPC_PORT=tcp://…``, ``ATTNSERVE_PORT_8001_TCP_ADDR`` and so on.
    """
    return sorted(name for name, value in environ.items() if re.fullmatch(_LINK, f"{name}={value}"))


def given_settings(environ: Mapping[str, str], known: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yields variable, key and value of each setting in the environment; an empty value is as none.

    Args:
        environ: the environment.
        known: variables of settings, with their keys.

    Raises:
        ConfigError: a variable with the prefix is neither a setting, nor a service link, nor one of another command.
    """
    others = FOREIGN_VARIABLES.union(service_links(environ))
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in others):
        if name not in known:
            raise ConfigError(f"{name}: no such setting; the known variables are {', '.join(sorted(known))}")
        if environ[name]:
            yield name, known[name], environ[name]
