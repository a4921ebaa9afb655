# SPDX-License-Identifier: Apache-2.0
"""`python -m attnserve_export`: the commands `train` and `export` without the client's command line."""

from __future__ import annotations

import typer

from attnserve_export.cli import export, train

app = typer.Typer(name="attnserve_export", no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(train)
app.command()(export)

if __name__ == "__main__":
    app()
