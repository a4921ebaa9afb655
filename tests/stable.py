# SPDX-License-Identifier: Apache-2.0
"""The state of the repository that the stable interfaces are compared with: the last release, or before the first one a commit.

``python -m tests.stable FOLDER`` writes its protos there, for ``buf breaking``.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEFORE_THE_FIRST_RELEASE = "93ed0a15a7c107c95eb658062920e1bc26a7368a"
"""Compared with while there is no tag of a release; the only place that names it."""
TAGS = "v[0-9]*"
PATHS = ("protos", "buf.yaml")


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints; None where it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def reference(root: Path = ROOT) -> str:
    """The last tag of a release that HEAD descends from, or the commit.

    Raises:
        LookupError: neither is in the repository, as in a clone without history.
    """
    tag = _git(root, "describe", "--tags", "--abbrev=0", "--match", TAGS)
    found = tag.decode().strip() if tag else BEFORE_THE_FIRST_RELEASE
    if _git(root, "cat-file", "-e", f"{found}^{{commit}}") is None:
        raise LookupError(f"{found} is not in this repository: fetch all commits and tags (git fetch --unshallow --tags)")
    return found


def extract(root: Path, folder: Path) -> str:
    """Writes the reference's protos into a new folder; returns the name of the reference."""
    found = reference(root)
    archive = _git(root, "archive", "--format=tar", found, *PATHS)
    assert archive is not None
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return found


def has_history(root: Path) -> bool:
    """Whether a folder is a repository with all of its commits."""
    return _git(root, "rev-parse", "--is-shallow-repository") == b"false\n"


def main(folder: str) -> int:
    """Extracts into a folder, or says that this cannot be done without the history; returns the exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        print(f"protos: compared with {extract(ROOT, Path(folder))}")
    except LookupError as error:
        print(f"protos: NOT COMPARED: {error}", file=sys.stderr)
        return 1 if has_history(ROOT) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
