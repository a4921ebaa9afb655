# SPDX-License-Identifier: Apache-2.0
"""``attnserve models``: lists the models of a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from attnserve_client.cli import output
from attnserve_client.cli.options import AsJson
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.types import Model

_NO_TERMINAL = 1000
"""Width of a file or a pipe in characters: no line is cut or continued."""
_NARROW = 96
"""A terminal with fewer characters a line has no room for all columns of the usual models."""


@takes_server
def models(server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """List the models of a server."""
    with server.client() as client:
        found = client.list_models()
    if as_json:
        output.print_json([output.json_of(model) for model in found])
    elif found:
        console = Console(width=None if sys.stdout.isatty() else _NO_TERMINAL)
        console.print(models_table(found, console.width))
    else:
        Console().print(f"The server at {server.address} serves no model.")


def models_table(found: Sequence[Model], width: int) -> Table:
    """Returns a table of models; lengths are in pieces. If ``width`` is small, headers, ids and tasks take several lines."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("model", "version", "task", "variant", "state"):
        table.add_column(name, no_wrap=name not in ("model", "task"), overflow="fold")
    for limit in ("source", "target", "beam"):
        table.add_column(f"{limit}\n≤" if width < _NARROW else f"{limit} ≤", justify="right", no_wrap=True)
    for model in found:
        state = f"[green]{model.state}[/]" if model.is_ready else f"[yellow]{model.state}[/]"
        limits = (model.max_source_tokens or "image", model.max_target_tokens or "–", model.max_beam_size or "–")
        table.add_row(model.id, model.version, model.task, model.variant, state, *map(str, limits))
    return table
