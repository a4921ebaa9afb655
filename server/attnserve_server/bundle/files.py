# SPDX-License-Identifier: Apache-2.0
"""Checks the files of a bundle: they lie in its folder, they are those that the manifest lists, and graphs read no others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import graph_files, named_files
from attnserve_server.bundle.graphs import external_files

MANIFEST = "manifest.json"


def outside_problems(folder: Path) -> list[str]:
    """Returns a problem for each link out of the folder, and for a manifest that is no regular file; opens nothing."""
    root, problems = folder.resolve(), list[str]()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not is_within(path, root):
            problems.append(f"{path.relative_to(folder).as_posix()} is a link out of the bundle")
    manifest = folder / MANIFEST
    if not problems and manifest.exists() and not manifest.is_file():
        problems.append(f"{MANIFEST}: not a regular file")
    return problems


def file_problems(folder: Path, manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns all problems of the files beside a manifest; a graph is read only if its SHA-256 is the listed one."""
    listed = {file.name: file for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    graphs = graph_files(manifest)
    problems = [f"{name} is not listed" for name in sorted(present - set(listed))]
    for name, file in sorted(listed.items()):
        if name not in present:
            problems.append(f"{name} is missing")
            continue
        data = (folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            problems.append(f"{name} is not the file that was listed (SHA-256 differs)")
        elif name in graphs:
            problems += _external_problems(name, data, set(listed))
    problems += [f"{name} is named but not listed" for name in sorted(named_files(manifest) - {""} - set(listed))]
    return problems


def _external_problems(graph: str, data: bytes, listed: set[str]) -> Iterator[str]:
    for name in sorted(external_files(data) - listed):
        yield f"{graph}: its external data {name!r} is not a listed file"


def is_within(path: Path, root: Path) -> bool:
    """Whether a path, all links followed, exists in a folder, whose own path has no links."""
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # it leads nowhere, or to itself
        return False
