# SPDX-License-Identifier: Apache-2.0
"""Generates the blocking client from the client for asyncio, by replacing words in its code and docstrings.

``python make_sync.py`` writes the generated modules; with ``--check`` it only lists the modules that are out of date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "attnserve_client"
MODULES = {
    "aio_client.py": "client.py",
    "aio_passes.py": "sync_passes.py",
    "aio_connection.py": "sync_connection.py",
    "aio_calls.py": "sync_calls.py",
}
"""Source module -> generated module."""

_REPLACEMENTS = (
    (r"async (?=def|for|with)|await ", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"a(closing|next)", r"\1"),
    (r"Async(Client|Generator)", r"\1"),
    (r"Aio(Calls|Connection|Passes)", r"Sync\1"),
    (r"aio_(calls|connection|many|passes)", r"sync_\1"),
    (r"grpc\.aio", "grpc"),
    (r"asyncio\.sleep", "time.sleep"),
    (r"import asyncio", "import time"),
)
_RUFF = ("check --select I --fix-only", "format")


def generated(source: Path) -> str:
    """Returns the text of the blocking module for a module for asyncio."""
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in _REPLACEMENTS:
        text = re.sub(rf"\b(?:{pattern})", replacement, text)
    licence, rest = text.split("\n", 1)
    text = f"{licence}\n# Generated from {source.name} by make_sync.py: do not edit.\n{rest}"
    for arguments in _RUFF:
        command = [sys.executable, "-m", "ruff", *arguments.split(), "--quiet", "--stdin-filename", str(source), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    return text


def main(arguments: list[str]) -> int:
    """Writes or checks the modules; returns 1 if a check finds one out of date."""
    texts = {PACKAGE / target: generated(PACKAGE / source) for source, target in MODULES.items()}
    if "--check" not in arguments:
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
        return 0
    stale = [file.name for file, text in texts.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    if stale:
        print(f"out of date: {', '.join(stale)}; run make client", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
