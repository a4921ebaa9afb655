# SPDX-License-Identifier: Apache-2.0
"""The locked dependencies of the images fit ``pyproject.toml``, have hashes, and name no index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.containers import ROOT

FOLDER = ROOT / "deploy/docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = {
    "cpu": [*PROJECT["project"]["dependencies"], *EXTRAS["server"], *EXTRAS["trace"], *EXTRAS["cpu"]],
    "gpu": [*PROJECT["project"]["dependencies"], *EXTRAS["server"], *EXTRAS["trace"], *EXTRAS["gpu"]],
    "locust": [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["image-locust"]],
    "build": [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["image-build"]],
}


def faults(text: str, wanted: list[str]) -> list[str]:
    """What is wrong with a file of locked dependencies."""
    entries = re.findall(r"^(\S+)==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n?)+)", text, re.MULTILINE)
    pins = {canonicalize_name(name): version for name, version, _ in entries}
    found = [f"an address: {line}" for line in text.splitlines() if "://" in line or line.startswith("-")]
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    if len(entries) != len(lines):
        found.append("an entry without a version or without hashes")
    for requirement in map(Requirement, wanted):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement}: locked is {version}; run make lock")
    return found


@pytest.mark.parametrize("name", WANTED)
def test_locked_dependencies_fit_the_project(name: str) -> None:
    assert faults((FOLDER / f"requirements-{name}.txt").read_text(encoding="utf-8"), WANTED[name]) == []


def test_one_runtime_in_each_lock() -> None:
    for name, other in (("cpu", "onnxruntime-gpu"), ("gpu", "onnxruntime")):
        assert not re.search(rf"^{other}==", (FOLDER / f"requirements-{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)


GOOD = "# made\na==1.5 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nb-c==2 \\\n    --hash=sha256:22\n"


@pytest.mark.parametrize(
    ("text", "wanted", "problem"),
    [
        (GOOD, ["a>=2"], "a>=2: locked is 1.5; run make lock"),
        (GOOD, ["d"], "d: locked is None; run make lock"),
        (GOOD + "d==1\n", ["a"], "an entry without a version or without hashes"),
        ("--index-url https://x/simple\n" + GOOD, ["a"], "an address: --index-url https://x/simple"),
    ],
)
def test_fault_of_a_lock_is_seen(text: str, wanted: list[str], problem: str) -> None:
    assert faults(GOOD, ["a>=1", "B_c==2"]) == []
    assert problem in faults(text, wanted)


def test_ignore_file_lets_in_what_the_wheel_is_made_of() -> None:
    """The build fails without a file that is left out; this names what must stay out."""
    patterns = Path(ROOT, ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert patterns[1] == "*", "an allow-list: files are left out unless they are named"
    named = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    assert {line for line in named if not list(ROOT.glob(line))} == set()
    assert not named & {".git", "tests", "docs"}
