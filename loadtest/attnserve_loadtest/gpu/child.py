# SPDX-License-Identifier: Apache-2.0
"""The process of one check: ``python -m attnserve_loadtest.gpu.child '{"name": ..., "target": ..., ...}'``."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from attnserve_loadtest.gpu.results import CUT, FAILED, NO_DEVICE, PARTIAL, PASSED, SKIPPED, Figures, NoDevice, Skip


def run(job: dict[str, Any]) -> None:
    """Runs the check and writes its result into the report.

    Args:
        job: ``name``, ``target``, ``report``, ``limit_s`` and ``settings``, as :func:`attnserve_loadtest.gpu.running.run_checks`
            gives them.
    """
    began = time.monotonic()
    report = Path(job["report"])
    figures = Figures(report, job["name"])
    status, error = PASSED, ""
    try:
        from attnserve_loadtest.gpu.context import Context

        module, _, function = job["target"].partition(":")
        check = getattr(importlib.import_module(module), function)
        check(Context(report=report, deadline=began + job["limit_s"], **job["settings"]), figures)
        if CUT in figures:
            status, error = PARTIAL, f"no time was left for: {', '.join(figures[CUT])}"
    except Skip as skip:
        status, error = SKIPPED, str(skip)
    except NoDevice as missing:
        status, error = NO_DEVICE, str(missing)
    except Exception:  # noqa: BLE001  whatever it is, the next check may tell more
        status, error = FAILED, traceback.format_exc(limit=8)
    figures.write(status, error)


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the result is written; after a fault the libraries' own clean-up may hang
