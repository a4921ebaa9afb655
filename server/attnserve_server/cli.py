# SPDX-License-Identifier: Apache-2.0
"""`attnserve serve`: plugged into the client's command line by an entry point; also ``python -m attnserve_server``."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.markup import escape

from attnserve_server.app import App
from attnserve_server.config import Setting, from_flags, load_config, settings, to_toml
from attnserve_server.environment import service_links
from attnserve_server.errors import StartupError
from attnserve_server.metrics.logs import configure_logging
from attnserve_server.process import run
from attnserve_server.setting_types import Flag

log = logging.getLogger(__name__)

_ORDER = (
    "grpc_port", "http_port", "host", "models", "device", "variant", "workers", "slots", "queue_limit", "ageing_seconds",
    "stream_interval_seconds", "cache_bytes", "max_beam_size", "max_source_tokens", "drain_seconds", "log_level", "log_format",
    "slow_request_seconds", "tls_cert", "tls_key", "tls_client_ca", "tokens", "trace_endpoint", "trace_ratio",
)  # fmt: skip
"""Flags that the help lists first; others follow in the order of the configuration."""


def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; flags and ATTNSERVE_* variables override it.")] = None,
    *,
    ready_file: Annotated[Path | None, typer.Option(help="When ready, write the ports and the pid to this file as JSON.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the effective configuration and exit.")] = False,
    **flags: Any,
) -> None:
    """Serve the bundles of a model repository over gRPC."""
    try:
        effective = load_config(from_flags(flags), os.environ, config)
        if print_config:
            typer.echo(to_toml(effective), nl=False)
            return
        configure_logging(effective.log_format, effective.log_level)
        links = service_links(os.environ)
        if links:
            log.debug("no settings, but Kubernetes service links: %s", ", ".join(links))
        run(App(effective).run(ready_file))
    except StartupError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


def flags_of(configuration: Iterable[Setting]) -> list[inspect.Parameter]:
    """Returns one option for each flag, with the type of its setting; its value is None if the flag is absent."""
    found: dict[str, inspect.Parameter] = {}
    for setting in configuration:
        if setting.flag is not None and setting.flag.name not in found:
            name, option = setting.flag.name, typer.Option(help=_help(setting, setting.flag))
            found[name] = inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[type(setting.default) | None, option]
            )
    return sorted(found.values(), key=lambda flag: _ORDER.index(flag.name) if flag.name in _ORDER else len(_ORDER))


def _help(setting: Setting, flag: Flag) -> str:
    """Returns a flag's help: its description or else its allowed values, then the default; as rich markup."""
    kind, default, text = get_args(setting.type)[0], setting.default, flag.help
    if not text and get_origin(kind) is Literal:
        *others, last = get_args(kind)
        text = f"{', '.join(others)} or {last}"
    shown = flag.default or (f"{default:g}" if isinstance(default, float) else str(default))
    return escape(f"{text} [{shown}]." if shown else f"{text}.")


def _with_flags(signature: inspect.Signature) -> inspect.Signature:
    """Returns the signature with the flags in place of ``**flags``, after the first parameter."""
    first, *others, _ = signature.parameters.values()
    return signature.replace(parameters=[first, *flags_of(settings()), *others])


# typer reads the signature; the help lists options in its order.
serve.__signature__ = _with_flags(inspect.signature(serve, eval_str=True))  # type: ignore[attr-defined]
