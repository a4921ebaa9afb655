# SPDX-License-Identifier: Apache-2.0
"""Runs frequent, short collections; a long one stalls every request."""

from __future__ import annotations

import gc

YOUNG = 2_000
"""New objects that trigger a young collection, which takes about 1 ms. Reference counting frees all but grpc's cycles."""


def quiet_collector() -> None:
    """Exempts all live objects from later collections. Call it after models were loaded or unloaded."""
    gc.unfreeze()  # so that objects of unloaded models are collected
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
