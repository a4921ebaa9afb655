# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_server``: the same as `attnserve serve`, without the client's command line."""

import typer

from attnserve_server.cli import serve

if __name__ == "__main__":
    typer.run(serve)
