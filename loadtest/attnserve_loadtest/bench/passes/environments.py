# SPDX-License-Identifier: Apache-2.0
"""The peers' virtual environments, which are made once below ``.make/peers`` at the root of the repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from attnserve_client.errors import ToolError

FOLDER = Path(__file__).resolve().parents[4] / ".make" / "peers"
PACKAGES: Mapping[str, Sequence[str]] = {
    "LitServe": ("litserve==0.2.19", "python-multipart==0.0.34"),
    "BentoML": ("bentoml==1.4.40",),
}
"""By peer: its packages, the newest versions of November 2026."""
SHARED = ("onnxruntime", "pillow", "numpy")
"""Packages of both sides, in the versions of this environment."""


def interpreter(peer: str, folder: Path = FOLDER) -> Path:
    """The Python of a peer's environment; installs the environment if it is missing or has other packages.

    Raises:
        ToolError: the packages cannot be installed.
    """
    venv = folder / peer.lower()
    wanted = [*PACKAGES[peer], *(f"{name}=={version(name)}" for name in SHARED)]
    stamp, text = venv / "packages", "\n".join([sys.version, *wanted])
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == text):
        print(f"installing {peer} into {venv}", file=sys.stderr)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
            subprocess.run([*pip, *wanted], check=True, stderr=subprocess.PIPE, text=True)
        except subprocess.CalledProcessError as error:
            raise ToolError(f"{peer} cannot be installed: {(error.stderr or str(error))[-300:].strip()}") from error
        stamp.write_text(text, encoding="utf-8")
    return venv / "bin" / "python"
