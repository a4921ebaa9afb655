# SPDX-License-Identifier: Apache-2.0
"""`attnserve serve`: plugged into the client's command line by an entry point; also ``python -m attnserve_server``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from attnserve_server.app import App
from attnserve_server.config import load_config, to_toml
from attnserve_server.errors import StartupError
from attnserve_server.metrics.logs import configure_logging


def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; flags and ATTNSERVE_* variables win over it.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port, 0 for a free one [8001].")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of /metrics and /healthz, 0 for a free one [8002].")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind, both ports [127.0.0.1].")] = None,
    models: Annotated[str | None, typer.Option(help="Model repository: <model id>/<version>/manifest.json.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda [auto].")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of the bundles, by name [auto].")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; 0 for one a core (GPU: one) [0].")] = None,
    slots: Annotated[int | None, typer.Option(help="Rows that decode at once in a worker [32].")] = None,
    queue_limit: Annotated[int | None, typer.Option(help="Requests that may wait, per model [512].")] = None,
    ageing_seconds: Annotated[float | None, typer.Option(help="A request's wait for one more level of priority [1].")] = None,
    stream_interval_seconds: Annotated[
        float | None, typer.Option(help="Pieces of a stream that come within this time go together; 0 for each by itself [0.02].")
    ] = None,
    cache_bytes: Annotated[int | None, typer.Option(help="Memory for answers to repeated requests; 0 for none [0].")] = None,
    max_beam_size: Annotated[int | None, typer.Option(help="Largest beam that is accepted [8].")] = None,
    max_source_tokens: Annotated[int | None, typer.Option(help="Longest source in pieces [the model's limit].")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="How long a stop waits for what was admitted [30].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json [text].")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write ports and pid here, as JSON, once ready.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the effective configuration and exit.")] = False,
) -> None:
    """Serve the bundles of a model repository over gRPC."""
    flags: dict[str, Any] = {
        "models": models, "drain_seconds": drain_seconds, "log_level": log_level, "log_format": log_format,
        "grpc": {"port": grpc_port, "host": host}, "http": {"port": http_port, "host": host},
        "engine": {
            "device": device, "variant": variant, "workers": workers, "slots": slots, "queue_limit": queue_limit,
            "ageing_seconds": ageing_seconds, "stream_interval_seconds": stream_interval_seconds,
            "max_beam_size": max_beam_size, "max_source_tokens": max_source_tokens,
        },
        "cache": {"max_bytes": cache_bytes},
    }  # fmt: skip
    try:
        effective = load_config(flags, os.environ, config)
        if print_config:
            typer.echo(to_toml(effective), nl=False)
            return
        configure_logging(effective.log_format, effective.log_level)
        asyncio.run(App(effective).run(ready_file))
    except StartupError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
