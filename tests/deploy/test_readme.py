# SPDX-License-Identifier: Apache-2.0
"""The blocks of ``deploy/README.md`` work: commands by buildah, podman and Compose in Docker's place, values by Helm."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.containers import ROOT, Engine, build_options
from tests.deploy.helm import KUBERNETES, custom_faults, faults, helm, rendered
from tests.deploy.test_compose import docker_compose
from tests.e2e.pages import blocks_of, commands_of, is_like

PAGE = ROOT / "deploy/README.md"
BLOCKS = blocks_of(PAGE.read_text(encoding="utf-8"))
VALUES = [block for block in BLOCKS if block.language == "yaml" and block.reason is None]
COMMANDS = [block for block in BLOCKS if block.language == "console" and block.reason is None]
DOCKER = """#!/bin/sh
case "$1" in
build) shift; exec buildah bud {options} "$@" ;;
compose) shift; exec {inside} {compose} "$@" ;;
*) exec {inside} podman "$@" ;;
esac
"""


@pytest.fixture
def environment(containers: Engine, image: str, tmp_path: Path) -> dict[str, str]:
    """Variables with a command ``docker`` that is made of the tools at hand; the image's layers are there already."""
    for name in ("bin", "pip"):
        (tmp_path / name).mkdir()
    options = shlex.join(build_options(containers, tmp_path / "pip"))
    inside = shlex.join([*containers.command(), f"--wd={ROOT}"])
    program = tmp_path / "bin/docker"
    program.write_text(DOCKER.format(options=options, inside=inside, compose=docker_compose()), encoding="utf-8")
    program.chmod(0o755)
    return {**containers.environment, "PATH": f"{tmp_path / 'bin'}:{containers.environment['PATH']}"}


def test_every_block_is_run_or_says_why_not() -> None:
    assert COMMANDS and VALUES
    assert [block.line for block in BLOCKS if block.reason == ""] == []
    assert {block.language for block in BLOCKS} == {"console", "yaml"}


@pytest.mark.parametrize("block", VALUES, ids=lambda block: f"line {block.line}")
def test_values_make_valid_manifests(block: object) -> None:
    values = yaml.safe_load(block.text)  # type: ignore[attr-defined]
    assert (helm(values)["lint"], helm(values)["error"]) == ([], "")
    manifests = rendered(values)
    assert [fault for version in KUBERNETES for fault in faults(manifests, version)] == []
    assert custom_faults(manifests) == []


def test_commands_work(environment: dict[str, str]) -> None:
    failures = []
    for block in COMMANDS:
        for line, command, expected in commands_of(block):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            if done.returncode:
                failures.append(f"line {line}: {command} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
            elif expected and not is_like(expected, done.stdout):
                failures.append(f"line {line}: {command} printed {done.stdout!r}, not {expected!r}")
    assert failures == []
