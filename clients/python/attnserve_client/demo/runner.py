# SPDX-License-Identifier: Apache-2.0
"""Runs the demo: starts a server, lists its models, runs every step of their tasks, prints metrics, stops the server."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from attnserve_client.cli import output
from attnserve_client.cli.models import models_table
from attnserve_client.cli.server import Server
from attnserve_client.client import Client
from attnserve_client.demo import metrics
from attnserve_client.demo.server import SERVER_COMMAND, DemoServer
from attnserve_client.demo.stage import Stage
from attnserve_client.demo.steps import STEPS
from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.security import Security
from attnserve_client.types import Task

RESULTS = Path("results")


def run(arguments: Sequence[str] = (), command: Sequence[str] = SERVER_COMMAND, results: Path = RESULTS) -> int:
    """Runs the demo.

    Args:
        arguments: ``--ca``, ``--cert``, ``--key`` and ``--token-file`` of the demo's client; others are
            passed to the server, in addition to its ports.
        command: starts the server.
        results: folder of the images.

    Returns:
        0, or 1 after a failure, which is printed with the end of the server's log.
    """
    console = Console(highlight=False)
    security, others = _security_of(arguments)
    with DemoServer(others, command, security=security) as server:
        try:
            with console.status("starting the server"):
                ports = server.wait_ready()
            address = f"127.0.0.1:{ports.grpc}"
            console.print(f"server ready: gRPC on {address}, metrics on {server.scheme}://127.0.0.1:{ports.http}/metrics\n")
            with Server(address, security).client() as client:
                _show_models(client, console, results)
            console.print(Rule("metrics", align="left", style="dim"))
            for name, figure in metrics.summary(server.metrics()):
                console.print(Text.assemble(f"   {name}  ", (figure, "bold")))
            with console.status("stopping the server"):
                server.stop()
        except (AttnserveError, ToolError, OSError) as error:
            output.report(error)
            tail = server.log_tail()
            Console(stderr=True, highlight=False).print(
                Text(f"the server's log ends with:\n{tail}" if tail else "its log is empty")
            )
            return 1
    return 0


def _security_of(arguments: Sequence[str]) -> tuple[Security, list[str]]:
    """Returns the client's files, by flag or environment, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    from_environment = dataclasses.asdict(Security.from_environment())
    for name, value in from_environment.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=value)
    own, others = parser.parse_known_args(list(arguments))
    return Security(**vars(own)), others


def _show_models(client: Client, console: Console, results: Path) -> None:
    """Lists the models and runs the steps of each task.

    Raises:
        ToolError: no step could be run.
    """
    models = client.list_models()
    if not models:
        raise ToolError("the server serves no model: is its model repository (deploy/models, or --models) empty?")
    console.print(models_table(models, console.width))
    num_shown = 0
    for task in sorted({model.task for model in models}, key=list(Task).index):
        of_task = [model for model in models if model.task is task]
        default = client.get_model("").model.id
        of_task.sort(key=lambda model: model.id != default)
        stage = Stage(client, [client.get_model(model.id, model.version) for model in of_task], console, results)
        for step in STEPS:
            if step.task is task and not (step.compares and len(of_task) == 1):
                console.print()
                console.print(Rule(step.title if step.compares else f"{stage.model_id}: {step.title}", align="left", style="dim"))
                step.run(stage)
                num_shown += 1
    if not num_shown:
        raise ToolError("the demo has no step for any of these models")
    console.print()
