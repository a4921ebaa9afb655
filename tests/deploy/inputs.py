# SPDX-License-Identifier: Apache-2.0
"""Whether an input of ``make test-deploy`` differs from the committed record of its last pass; needs no package.

``python -m tests.deploy.inputs`` prints the answer and ends with 0 if an input differs, with 3 if none does. ``--begin`` notes the
digests before the tests, and ``--passed`` writes what was noted to the record, ``.ci/test-deploy.json``, which is to be committed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INPUTS = (
    ".ci/run",
    ".dockerignore",
    "Makefile",
    "clients/python",
    "deploy",
    "export/attnserve_export",
    "loadtest/attnserve_loadtest",
    "protos/attnserve",
    "pyproject.toml",
    "server/attnserve_server",
    "tests/chaos/faulty.py",
    "tests/conftest.py",
    "tests/deploy",
    "tests/e2e",
    "tests/fakes",
    "tests/foreign",
    "tests/golden",
    "tests/other_work.py",
    "tests/photos.py",
    "tests/rerun.py",
    "tests/seeds.py",
    "tests/stopping.py",
)
"""Files and folders; none is inside another."""
RECORD = ".ci/test-deploy.json"
NOTE = ".make/test-deploy.json"
UNCHANGED = 3


def digests(root: Path = ROOT) -> dict[str, str]:
    """By input: SHA-256 of its sorted lines "path NUL SHA-256 of the file"; files that git ignores do not count."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *INPUTS]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    lines = [f"{name}\0{_digest(root / name)}\n" for name in sorted(set(listed)) if name and _is_there(root / name)]
    texts = {each: [line for line in lines if line.startswith((f"{each}\0", f"{each}/"))] for each in INPUTS}
    return {each: hashlib.sha256("".join(text).encode()).hexdigest() for each, text in texts.items()}


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Inputs that differ, or that only one of the two has."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def message(changed: list[str], is_first: bool) -> str:
    """What :func:`main` prints."""
    if is_first:
        return f"make test-deploy: runs, for there is no record of a pass ({RECORD})"
    if not changed:
        return f"make test-deploy: left out, for no input differs from the record of its last pass ({RECORD})"
    return f"make test-deploy: runs, for inputs differ from the record of its last pass ({RECORD}): {', '.join(changed)}"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """See above; returns the exit code."""
    record, note = root / RECORD, root / NOTE
    match arguments:
        case []:
            before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
            changed = changes(before, digests(root))
            print(message(changed, not before), flush=True)
            return 0 if changed else UNCHANGED
        case ["--begin"]:
            note.parent.mkdir(exist_ok=True)
            note.write_text(json.dumps(digests(root), indent=2) + "\n", encoding="utf-8")
            return 0
        case ["--passed"]:
            before = record.read_bytes() if record.is_file() else b""
            note.replace(record)
            if record.read_bytes() != before:
                print(f"make test-deploy: passed; commit {RECORD}", flush=True)
            return 0
    print("usage: python -m tests.deploy.inputs [--begin|--passed]", file=sys.stderr)
    return 2


def _is_there(file: Path) -> bool:
    return file.is_symlink() or file.is_file()


def _digest(file: Path) -> str:
    return hashlib.sha256(str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
