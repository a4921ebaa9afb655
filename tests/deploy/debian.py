# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian packages, unpacked into a folder of their own: nothing is installed, and no package list of the machine changes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".make" / "debian"
RELEASE = "trixie"
"""Packages of this release, whichever one the machine has."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class ToolError(AssertionError):
    """A program cannot be had."""


def unpacked(*packages: str, release: str = RELEASE, cache: Path = CACHE) -> Path:
    """Returns a folder with the files of the packages, without those that they depend on; the mirror is the machine's own.

    Raises:
        ToolError: they cannot be had; says which command failed, and how.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / "-".join([release, *sorted(packages)])
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as state:
                _unpack(packages, release, Path(state))
                (Path(state) / "files").rename(folder)
    return folder


def _unpack(packages: tuple[str, ...], release: str, state: Path) -> None:
    """Unpacks packages into ``files``; ``state`` holds the lists of apt, so that no right is needed to write the machine's."""
    for name in ("lists/partial", "archives/partial", "empty", "files"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    mirrors = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    mirror = next((each for each in mirrors if "security" not in each), None)
    if mirror is None:
        raise ToolError("apt-get knows no mirror of Debian: the machine's lists of sources are empty")
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {release} main\n", encoding="utf-8")
    settings = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": state / "empty",
        "Dir::Etc::preferencesparts": state / "empty",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
    }
    if os.geteuid() == 0:
        settings["APT::Sandbox::User"] = "root"  # apt's own user may not enter the folder
    options = [f"-o{name}={value}" for name, value in settings.items()]
    _run("apt-get", "-q", *options, "update")
    _run("apt-get", "-q", *options, "download", *packages, folder=state / "archives")
    for archive in (state / "archives").glob("*.deb"):
        _run("dpkg-deb", "--extract", str(archive), str(state / "files"))


def _run(*command: str, folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise ToolError(f"{command[0]} is not there: these tests need Debian, or a system derived from it")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    if done.returncode != 0:
        raise ToolError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
