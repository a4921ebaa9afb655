# SPDX-License-Identifier: Apache-2.0
"""The command ``attnserve``. Importing this needs no extra; running it needs ``cli``, which the error message names."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: without the program's name; None for the arguments of the process.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    try:
        from attnserve_client.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("attnserve"):
            raise
        print(f'attnserve: the command line needs {error.name}: pip install "attnserve[cli]"', file=sys.stderr)
        return 1
    return run(args)
