# SPDX-License-Identifier: Apache-2.0
"""Shared by the commands that compare finished runs: prints figures, writes them to a file, names missing runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from attnserve_export.recipe import RecipeError
from attnserve_export.training.files import write_json

OutputOption = Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")]


def report(
    compute: Callable[[], dict[str, Any]],
    output: Path | None,
    text: Callable[[dict[str, Any]], str] = lambda found: json.dumps(found, indent=1),
) -> None:
    """Prints the result of ``compute`` as formatted by ``text``.

    Raises:
        typer.Exit: with code 1 after one line of error, if a run or the data set is missing.
    """
    try:
        found = compute()
    except (FileNotFoundError, RecipeError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
    typer.echo(text(found))
    if output is not None:
        write_json(found, output)
