# SPDX-License-Identifier: Apache-2.0
"""The made-up kind of ``tests/foreign/letters.py`` whose warm-up is incomplete: a request with some letter has a cold step."""

from __future__ import annotations

import dataclasses
from typing import Any

from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from attnserve_server.stats import StepStats
from tests.foreign import letters

COLD = "*"


class Cold(letters.Abacus):
    """The engine."""

    def step(self) -> list[Any]:
        is_cold = any(COLD in each.work.payload.text for each in self.running.values())
        events = super().step()
        last = self.steps.pop()
        self.steps.append(StepStats(last.num_rows, last.step_s, is_cold=is_cold))
        return events


def make_engine(bundle: Bundle, config: EngineConfig) -> Cold:
    return Cold(bundle, config)


KIND = dataclasses.replace(letters.KIND, path="tests.deploy.cold:KIND", engine="tests.deploy.cold:make_engine")
SPEC = dataclasses.replace(letters.SPEC, kind=KIND)
