# SPDX-License-Identifier: Apache-2.0
"""The made-up kind of ``letters.py`` with faults: models whose load ends the process or takes long, and requests that end it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from tests.foreign import letters

DEADLY, SLOW = "†", "~"
"""Letters: a model with the first in its alphabet, or a request with it, ends the process; loading the second is one long part."""
PART_S = 6.5


class Fatal(letters.Abacus):
    """The engine."""

    def starting(self) -> Iterator[None]:
        for letter in self.alphabet:
            if letter == DEADLY:
                os._exit(9)
            if letter == SLOW:
                time.sleep(PART_S)
            yield

    def step(self) -> list[Any]:
        if any(DEADLY in each.work.payload.text for each in self.running.values()):
            os._exit(9)
        return super().step()


def make_engine(bundle: Bundle, config: EngineConfig) -> Fatal:
    return Fatal(bundle, config)


KIND = dataclasses.replace(letters.KIND, path="tests.foreign.fatal:KIND", engine="tests.foreign.fatal:make_engine")
SPEC = dataclasses.replace(letters.SPEC, kind=KIND)
