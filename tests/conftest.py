# SPDX-License-Identifier: Apache-2.0
"""Every test is marked with the folder it is in: `pytest -m unit`, `-m "parity or e2e"` and so on. All of `perf` is `load` too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

pytest_plugins = ["tests.e2e.shared"]

TESTS = Path(__file__).resolve().parent
KINDS = frozenset({"unit", "contract", "parity", "e2e", "chaos", "perf", "deploy"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Adds the markers; a folder that is no kind (``reference``, ``golden``) gives none."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            kind = item.path.relative_to(TESTS).parts[0]
            if kind in KINDS:
                item.add_marker(kind)
            if kind == "perf":
                item.add_marker("load")
