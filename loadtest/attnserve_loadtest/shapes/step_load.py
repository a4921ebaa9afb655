# SPDX-License-Identifier: Apache-2.0
"""Step load: a fifth more users after each fifth of the time."""

from __future__ import annotations

from attnserve_loadtest.shapes.stages import Stage, StagedShape


class StepLoad(StagedShape):
    """Step load: a fifth more users after each fifth of the time."""

    stages = (Stage(0.2, 0.2), Stage(0.2, 0.4), Stage(0.2, 0.6), Stage(0.2, 0.8), Stage(0.2, 1.0))
