# SPDX-License-Identifier: Apache-2.0
"""Whether a file that ``make test-deploy`` depends on has changed since it passed on this machine; needs no package.

``python -m tests.deploy.inputs`` prints the answer and ends with 0 if there is a change, with 3 if there is none. ``--begin`` notes the
files before the tests, and ``--passed`` records what was noted as passed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import CACHE

ROOT = Path(__file__).resolve().parents[2]
INPUTS = (
    *(".ci/run", ".dockerignore", "Makefile", "pyproject.toml", "clients/python", "deploy", "export/attnserve_export"),
    *(
        "loadtest/attnserve_loadtest",
        "protos/attnserve",
        "server/attnserve_server",
        "tests/conftest.py",
        "tests/deploy",
        "tests/e2e",
    ),
    *("tests/fakes", "tests/golden"),
)
UNCHANGED = 3
_SHOWN = 5
"""Names of changed files that are printed."""


def digests(root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of every file that the tests depend on, by path; files that git ignores do not count."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *INPUTS]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    return {name: _digest(root / name) for name in sorted(set(listed)) if name and (root / name).exists()}


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Paths that were added, removed or changed."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def message(changed: list[str], is_first: bool) -> str:
    """What :func:`main` prints."""
    if is_first:
        return "make test-deploy: runs, for it has not passed on this machine yet"
    if not changed:
        return "make test-deploy: left out, for no file that it depends on has changed since it passed on this machine"
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return f"make test-deploy: runs, for files have changed since it passed on this machine: {', '.join(changed[:_SHOWN])}{more}"


def main(arguments: list[str], root: Path = ROOT, cache: Path = CACHE) -> int:
    """See above; returns the exit code."""
    begun, passed = cache / "begun.json", cache / "passed.json"
    cache.mkdir(parents=True, exist_ok=True)
    match arguments:
        case []:
            before = json.loads(passed.read_text(encoding="utf-8")) if passed.is_file() else {}
            changed = changes(before, digests(root))
            print(message(changed, not before), flush=True)
            return 0 if changed else UNCHANGED
        case ["--begin"]:
            begun.write_text(json.dumps(digests(root)), encoding="utf-8")
            return 0
        case ["--passed"]:
            begun.rename(passed)
            return 0
    print("usage: python -m tests.deploy.inputs [--begin|--passed]", file=sys.stderr)
    return 2


def _digest(file: Path) -> str:
    return hashlib.sha256(str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
