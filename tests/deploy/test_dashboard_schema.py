# SPDX-License-Identifier: Apache-2.0
"""The dashboard has the types of Grafana's own schema: TypeScript checks the JSON as a literal of ``Dashboard``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from deploy.grafana.make_dashboard import OUT
from tests.deploy import tools

PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9.3")
OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext", "--target", "esnext")
KNOWN = "'\"auto\"' does not exist in type 'VariableModel'"
"""The builders write this field of a newer kind of variable; Grafana ignores it."""


def type_errors(dashboard: str, folder: Path) -> list[str]:
    """What TypeScript says of a dashboard, except for the known field."""
    (folder / "node_modules").symlink_to(tools.npm(*PACKAGES) / "node_modules")
    text = f'import type {{ Dashboard }} from "@grafana/schema";\nexport const dashboard: Dashboard = {dashboard};\n'
    (folder / "dashboard.ts").write_text(text, encoding="utf-8")
    command = [str(tools.node()[0]), "node_modules/typescript/bin/tsc", *OPTIONS, "dashboard.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
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
