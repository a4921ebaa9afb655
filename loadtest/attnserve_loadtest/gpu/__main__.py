# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest.gpu``, or ``make gpu-check``: everything that only a GPU can show, as one JSON report.

Exit code 0 if all checks passed or were skipped, 1 if one failed, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from pathlib import Path
from typing import Any

from attnserve_loadtest.gpu import checks
from attnserve_loadtest.gpu.running import exit_code, run_checks

ROOT = Path(__file__).resolve().parents[3]
CHECKS = (checks.environment, checks.parity, checks.graphs, checks.steps, checks.pytorch, checks.throughput, checks.served)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Check and measure the CUDA path on this machine's GPU.")
    parser.add_argument("--models", type=Path, default=ROOT / "deploy" / "models", help="model repository")
    parser.add_argument("--sentences", type=int, default=200, help="how many of the golden sentences are translated")
    parser.add_argument("--budget-seconds", type=float, default=600.0, help="no check is begun after this")
    parser.add_argument("--out", type=Path, default=None, help="the report; loadtest/results/gpu-NAME.json by default")
    parser.add_argument("--only", action="append", default=[], choices=[check.__name__ for check in CHECKS], help="may be repeated")
    parser.add_argument("--without-values", action="store_true", help="for stand-in libraries: run everything, compare nothing")
    arguments = parser.parse_args()
    problem = checks.device_problem()
    if problem:
        print(f"no GPU: {problem}", file=sys.stderr)
        return 2
    lines = (ROOT / "tests" / "golden" / "sentences.en.txt").read_text(encoding="utf-8").splitlines()
    context = checks.Context(arguments.models, lines[: arguments.sentences], looks_at_values=not arguments.without_values)
    wanted = [check for check in CHECKS if not arguments.only or check.__name__ in arguments.only]
    chosen = {check.__name__: functools.partial(check, context) for check in wanted}
    path = arguments.out or ROOT / "loadtest" / "results" / f"gpu-{_name()}.json"
    results = run_checks(chosen, path, arguments.budget_seconds)
    print(f"written to {path}")
    return exit_code(results)


def _name() -> str:
    torch: Any = checks._torch()
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-") if torch is not None else "unnamed"


if __name__ == "__main__":
    sys.exit(main())
