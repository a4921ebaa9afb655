# SPDX-License-Identifier: Apache-2.0
"""``attnserve health``: one health check, for supervisors and containers."""

from __future__ import annotations

from typing import Annotated

import typer

from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.health import CHECK_TIMEOUT_S

_Model = Annotated[str, typer.Option("--model", metavar="ID", help="Check this model; default: the whole server.")]
_Timeout = Annotated[float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Time to wait for the answer.")]


@takes_server
def health(server: Server = DEFAULT_SERVER, model: _Model = "", timeout: _Timeout = CHECK_TIMEOUT_S) -> None:
    """Check whether a server serves: exit code 0 if it does, 1 if it does not or cannot be reached."""
    with server.client() as client:
        is_healthy = client.is_healthy(model, timeout=timeout)
    what = f"the server at {server.address}" + (f", model {model}" if model else "")
    typer.echo(f"{what}: {'serving' if is_healthy else 'not serving, or not reachable'}")
    if not is_healthy:
        raise typer.Exit(1)
