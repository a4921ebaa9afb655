# SPDX-License-Identifier: Apache-2.0
"""Soak: half of the users for the whole time, which should be hours."""

from __future__ import annotations

from attnserve_loadtest.shapes.stages import Stage, StagedShape


class Soak(StagedShape):
    """Soak: half of the users for the whole time, which should be hours."""

    stages = (Stage(1.0, 0.5),)
