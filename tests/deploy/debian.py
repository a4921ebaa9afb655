# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian packages, unpacked into a folder of their own: nothing is installed, and no package list of the machine changes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.deploy import tools

RELEASE = "trixie"
"""Packages of this release, whichever one the machine has."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpacked(*packages: str, release: str = RELEASE) -> Path:
    """Returns a folder with the files of the packages, without those that they depend on; the archive is the machine's own.

    Raises:
        ToolError: they cannot be had; says which command failed, and how.
    """
    return tools.kept("-".join([release, *sorted(packages)]), lambda folder: _unpack(packages, release, folder))


def archive() -> str:
    """Returns the address of the Debian archive that this machine uses.

    Raises:
        ToolError: the machine lacks ``apt-get``, or uses none.
    """
    tools.required("apt-get", "dpkg")
    listed = tools.called("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    found = next((address for address in listed if "security" not in address), None)
    if found is None:
        raise tools.ToolError("apt-get names no archive of packages (apt-get indextargets)")
    return found


def source(release: str) -> str:
    """Returns the line of ``sources.list`` for a Debian release.

    Raises:
        ToolError: see :func:`archive`.
    """
    return f"deb [signed-by={KEYRING}] {archive()} {release} main"


def _unpack(packages: tuple[str, ...], release: str, folder: Path) -> None:
    """Unpacks packages into a folder. The lists of apt are in another one, so that no right is needed to write the machine's."""
    line = source(release)
    with tempfile.TemporaryDirectory(dir=tools.CACHE) as name:
        state = Path(name)
        for part in ("lists/partial", "archives/partial", "empty"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(f"{line}\n", encoding="utf-8")
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
        tools.called("apt-get", "-q", *options, "update")
        tools.called("apt-get", "-q", *options, "download", *packages, cwd=state / "archives")
        for package in (state / "archives").glob("*.deb"):
            tools.called("dpkg-deb", "--extract", package, folder)
