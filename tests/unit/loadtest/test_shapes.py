# SPDX-License-Identifier: Apache-2.0
"""The number of users over time."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from attnserve_loadtest.shapes import soak, spike, stages, step_load
shape = {{"step_load": step_load.StepLoad, "spike": spike.Spike, "soak": soak.Soak}}["{name}"]
print([stages.at(shape.stages, share, 40) for share in (0.0, 0.19, 0.45, 0.99, 1.0)])
"""


@pytest.mark.parametrize(
    ("name", "users"), [("step_load", [8, 8, 24, 40]), ("spike", [10, 10, 40, 10]), ("soak", [20, 20, 20, 20])]
)
def test_stages(name: str, users: list[int]) -> None:
    """Runs in a separate process, because Locust replaces much of the standard library by gevent's."""
    printed = subprocess.run([sys.executable, "-c", PROGRAM.format(name=name)], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([*((count, 40.0) for count in users), None])
