# SPDX-License-Identifier: Apache-2.0
"""Prometheus and Alertmanager from Debian."""

from __future__ import annotations

from pathlib import Path

from tests.deploy.debian import unpacked


def tools() -> Path:
    """The folder with the programs' files."""
    return unpacked("prometheus", "promtool", "prometheus-alertmanager")


def promtool() -> str:
    """Path of the program that checks and tests rules."""
    return str(tools() / "usr/bin/promtool")
