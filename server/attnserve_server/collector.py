# SPDX-License-Identifier: Apache-2.0
"""Runs frequent, short collections; a long one stalls every request."""

from __future__ import annotations

import gc

YOUNG = 2_000
"""Objects after which the young ones are looked at: a millisecond. Reference counting frees nearly all; what is left is grpc's."""


def quiet_collector() -> None:
    """To be called after loading or unloading: what there is now lives long, and no collection needs to walk it again."""
    gc.unfreeze()  # what was frozen and has been unloaded since is collected
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
