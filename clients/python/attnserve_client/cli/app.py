# SPDX-License-Identifier: Apache-2.0
"""Assembles the command line: this package's commands, and those that other packages add through entry points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from attnserve_client import __version__
from attnserve_client.cli import (
    caption,
    classify,
    classify_video,
    evaluate,
    generate,
    health,
    models,
    output,
    plugins,
    segment,
    streams,
    translate,
)
from attnserve_client.errors import AttnserveError, ToolError


def build_app() -> typer.Typer:
    """Returns the whole command line; a command of another package is imported only when it runs."""
    app = typer.Typer(
        name="attnserve",
        help="Attention models, served over gRPC: query a server, score it, run one.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_common)
    app.command("translate")(translate.translate)
    app.command("caption")(caption.caption)
    app.command("segment")(segment.segment)
    app.command("classify")(classify.classify)
    app.command("classify-video")(classify_video.classify_video)
    app.command("generate")(generate.generate)
    app.command("models")(models.models)
    app.command("health")(health.health)
    app.add_typer(evaluate.app, name="evaluate")
    plugins.add_commands(app)
    return app


def run(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; an error of a server or tool is one line on standard error."""
    streams.prepare()
    command = plugins.command_of(build_app())
    try:
        with streams.checked():
            command.main(args=None if args is None else list(args), prog_name="attnserve", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (AttnserveError, ToolError) as error:
        output.report(error)
        return 1
    return 0


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"attnserve {__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declares the options before the command."""
