# SPDX-License-Identifier: Apache-2.0
"""``attnserve models``: lists the models of a server."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from attnserve_client.cli import output
from attnserve_client.cli.options import AsJson
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.types import Model


@takes_server
def models(server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """List the models of a server."""
    with server.client() as client:
        found = client.list_models()
    if as_json:
        output.print_json([output.json_of(model) for model in found])
    elif found:
        Console().print(models_table(found))
    else:
        Console().print(f"The server at {server.address} serves no model.")


def models_table(found: Sequence[Model]) -> Table:
    """Returns a table of models; lengths are in pieces."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("model", "version", "task", "variant", "state"):
        table.add_column(name, no_wrap=True)
    for limit in ("source ≤", "target ≤", "beam ≤"):
        table.add_column(limit, justify="right", no_wrap=True)
    for model in found:
        state = f"[green]{model.state}[/]" if model.is_ready else f"[yellow]{model.state}[/]"
        limits = (model.max_source_tokens or "image", model.max_target_tokens or "–", model.max_beam_size or "–")
        table.add_row(model.id, model.version, model.task, model.variant, state, *map(str, limits))
    return table
