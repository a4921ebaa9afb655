# SPDX-License-Identifier: Apache-2.0
"""Spike: a quarter of the users, then all of them for a tenth of the time, then a quarter again."""

from __future__ import annotations

from attnserve_loadtest.shapes.stages import Stage, StagedShape


class Spike(StagedShape):
    """Spike: a quarter of the users, then all of them for a tenth of the time, then a quarter again."""

    stages = (Stage(0.4, 0.25), Stage(0.1, 1.0), Stage(0.5, 0.25))
