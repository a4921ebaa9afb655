# SPDX-License-Identifier: Apache-2.0
"""Source trees whose servers are compared: a folder, or a commit in a temporary worktree of git."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attnserve_client.errors import ToolError

FOLDERS = ("protos", "export", "server", "clients/python", "loadtest")
"""Folders of a tree's packages."""
_SERVER = Path("server", "attnserve_server", "__main__.py")


@dataclass(frozen=True, slots=True)
class Tree:
    """A source tree.

    Attributes:
        folder: its root.
        name: its commit ("993b217", "993b217-dirty" where files were changed), or the folder's name outside a repository.
    """

    folder: Path
    name: str

    @classmethod
    def of(cls, folder: Path) -> Tree:
        """The tree in a folder.

        Raises:
            ToolError: the folder is no checkout of attnserve.
        """
        folder = folder.resolve()
        if not (folder / _SERVER).is_file():
            raise ToolError(f"{folder} is not a checkout of attnserve: it has no {_SERVER}")
        named = _git(folder, "describe", "--always", "--dirty", "--exclude", "*") if (folder / ".git").exists() else ""
        return cls(folder, named or folder.name)

    def environment(self) -> dict[str, str]:
        """Environment variables of a process that imports this tree's packages and no other tree's.

        Settings of the server (``ATTNSERVE_*``) and the present ``PYTHONPATH`` are left out; the working directory is not
        searched for modules.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTNSERVE_")}
        path = os.pathsep.join(str(self.folder / name) for name in FOLDERS)
        return kept | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def checkout(source: str, repository: Path) -> Iterator[Tree]:
    """The tree in a folder or at a commit; the worktree of a commit is removed on exit.

    Args:
        source: a path, or what git resolves to a commit (id, tag, branch).
        repository: where commits are looked up.

    Raises:
        ToolError: it is neither, the folder or the commit has no server, or git cannot make the worktree.
    """
    if Path(source).is_dir():
        yield Tree.of(Path(source))
        return
    commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{source}^{{commit}}")
    if not commit:
        raise ToolError(f"{source!r} is neither a folder nor a commit of this repository")
    with tempfile.TemporaryDirectory(prefix="attnserve-tree-") as parent:
        folder = Path(parent, commit[:12])
        _git(repository, "worktree", "add", "--detach", "--quiet", str(folder), commit, must_succeed=True)
        try:
            yield Tree.of(folder)
        finally:
            _git(repository, "worktree", "remove", "--force", str(folder))


def _git(folder: Path, *arguments: str, must_succeed: bool = False) -> str:
    """Runs git and returns its output; empty where git fails and is allowed to."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ToolError("comparing trees needs git, which is not installed") from error
    if must_succeed and done.returncode != 0:
        raise ToolError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip() if done.returncode == 0 else ""
