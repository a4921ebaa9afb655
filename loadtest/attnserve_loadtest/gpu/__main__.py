# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest.gpu``, or ``make gpu-check``: all checks that need a GPU, as one JSON report.

Exit code 0 if all checks passed or were skipped, 1 if one failed or was cut short, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from attnserve_loadtest.gpu.device import provider_problem
from attnserve_loadtest.gpu.results import NO_DEVICE
from attnserve_loadtest.gpu.running import Check, end_on_sigterm, exit_code, run_checks
from attnserve_loadtest.gpu.table import table

ROOT = Path(__file__).resolve().parents[3]
FIRST = "environment"
"""It always runs: it reports whether there is a device, and loads the libraries into the page cache for the next processes."""
PACKAGE = "attnserve_loadtest.gpu"
CHECKS = (
    Check(FIRST, f"{PACKAGE}.device:environment", 45),
    Check("floor", f"{PACKAGE}.device:floor", 15),
    Check("parity", f"{PACKAGE}.answers:parity_default", 20),
    Check("passes", f"{PACKAGE}.passes:passes", 60),
    Check("served-passes", f"{PACKAGE}.served_passes:served_passes", 60),
    Check("steps", f"{PACKAGE}.times:steps_default", 40),
    Check("served", f"{PACKAGE}.served:served", 55),
    Check("parity-others", f"{PACKAGE}.answers:parity_others", 40),
    Check("graphs", f"{PACKAGE}.answers:graphs", 20),
    Check("throughput", f"{PACKAGE}.times:throughput", 20),
    Check("steps-others", f"{PACKAGE}.times:steps_others", 20),
    Check("torch", f"{PACKAGE}.baselines:torch_steps", 20),
    Check("invariance", f"{PACKAGE}.answers:invariance", 15),
    Check("moves", f"{PACKAGE}.times:moves", 15),
    Check("captures", f"{PACKAGE}.times:captures", 15),
    Check("ctranslate2", f"{PACKAGE}.baselines:ctranslate2", 20, is_optional=True),
    Check("compiled", f"{PACKAGE}.baselines:compiled", 20, is_optional=True),
)
"""The most informative checks first; the limits add up to the 500 s that all checks together may take."""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Check and measure the CUDA path on this machine's GPU.")
    parser.add_argument("--models", type=Path, default=ROOT / "deploy" / "models", help="model repository")
    parser.add_argument("--sentences", type=int, default=200, help="how many of the golden sentences are translated")
    parser.add_argument("--budget-seconds", type=float, default=sum(check.limit_s for check in CHECKS), help="for all checks")
    parser.add_argument("--out", type=Path, default=ROOT / "loadtest" / "results" / "gpu.json", help="the report")
    names = [check.name for check in CHECKS]
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="CHECK", help=f"one of {', '.join(names)}")
    parser.add_argument("--limits-times", type=float, default=1.0, help="multiplies the time limit of each check")
    parser.add_argument("--without-values", action="store_true", help="for stand-in libraries: run everything, compare nothing")
    arguments = parser.parse_args()
    if problem := provider_problem():
        print(f"no GPU: {problem}", file=sys.stderr)
        return 2
    lines = (ROOT / "tests" / "golden" / "sentences.en.txt").read_text(encoding="utf-8").splitlines()
    settings = {
        "models": str(arguments.models.resolve()),
        "sentences": lines[: arguments.sentences],
        "looks_at_values": not arguments.without_values,
    }
    checks = [
        Check(check.name, check.target, check.limit_s * arguments.limits_times, check.is_optional)
        for check in CHECKS
        if not arguments.only or check.name in (FIRST, *arguments.only)
    ]
    if arguments.without_values:
        os.environ["ATTNSERVE_ENGINE_CHECK_ANSWERS"] = "false"  # of the server that is started: its golden answers are values too
    end_on_sigterm()
    results = run_checks(checks, arguments.out.resolve(), settings, arguments.budget_seconds)
    print(*table(results), sep="\n")
    print(f"written to {arguments.out} and {arguments.out.with_suffix('.log').name}")
    missing = next((result.error for result in results if result.status == NO_DEVICE), "")
    if missing:
        print(f"no GPU: {missing}", file=sys.stderr)
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
