# SPDX-License-Identifier: Apache-2.0
"""Runs the demo; its arguments are passed to the server."""

import sys


def main() -> int:
    """Returns the demo's exit code; names the extras to install if an import fails."""
    try:
        from attnserve_client.demo.runner import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("attnserve"):
            raise
        print(f'the demo needs {error.name}: pip install "attnserve[cli,server,cpu]"', file=sys.stderr)
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
