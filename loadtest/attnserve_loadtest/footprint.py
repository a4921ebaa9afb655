# SPDX-License-Identifier: Apache-2.0
"""Memory of each model, and the time that a server of all of them takes to start.

``python -m attnserve_loadtest.footprint --models DIR`` starts a server of one worker for each model alone, and one of all models,
sends nothing, and prints a table.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from attnserve_client.demo.server import DemoServer
from attnserve_client.errors import ToolError
from attnserve_loadtest.bench.servers import address_of

MB = 1e6


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of an idle server with one worker: seconds from its start until it is ready, and resident memory in bytes."""

    seconds: float
    front: int
    worker: int


def footprint(models: Path) -> Footprint:
    """Starts a server of a repository, and ends it.

    Raises:
        ToolError: it does not start; with the end of its log.
    """
    began = time.monotonic()
    with DemoServer(("--models", str(models), "--workers", "1", "--log-level", "warning")) as server:
        address_of(server)
        seconds = time.monotonic() - began
        front = psutil.Process(server.pid)
        return Footprint(seconds, _resident(front), sum(_resident(each) for each in front.children() if _is_worker(each)))


def _resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def _is_worker(process: psutil.Process) -> bool:
    return any("engine.worker" in each for each in process.cmdline())


def measured(models: Path) -> dict[str, Footprint]:
    """Returns the footprint of each model of a repository alone, by its id, and of all, as "all".

    Raises:
        ToolError: there is no model, or a server does not start.
    """
    ids = sorted(each.parent.parent.name for each in models.glob("*/*/manifest.json"))
    if not ids:
        raise ToolError(f"no model in {models}")
    found = {}
    for model_id in track(dict.fromkeys(ids), "measuring", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(models / model_id, Path(folder) / model_id)
            found[model_id] = footprint(Path(folder))
    return {**found, "all": footprint(models)}


def main(models: Annotated[Path, typer.Option(metavar="DIR", help="Model repository.")] = Path("deploy/models")) -> None:
    """Print the memory of each model of a repository, and the time to start."""
    table = Table("model", "worker, MB", "front, MB", "ready after, s")
    try:
        for name, each in measured(models).items():
            table.add_row(name, f"{each.worker / MB:.0f}", f"{each.front / MB:.0f}", f"{each.seconds:.1f}")
    except ToolError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
