# SPDX-License-Identifier: Apache-2.0
"""Runs Helm on a chart, in Helm's own environment: ``python helm_program.py CHART VALUES``, with the values as JSON.

Prints a JSON object: ``lint``, the messages of a strict lint that are no hints; ``manifests``, by template; ``error``, why it was not
rendered.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python  # type: ignore[import-not-found]  # in its own environment

WARNING = 2


def main(chart: str, values: dict[str, Any]) -> dict[str, Any]:
    report = helm_python.lint(chart, values, strict=True)
    found: dict[str, Any] = {"version": helm_python.helm_sdk_version(), "manifests": {}, "error": ""}
    found["lint"] = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] >= WARNING] + report[
        "errors"
    ]
    try:
        with helm_python.Chart.load(chart) as loaded:
            found["manifests"] = loaded.render(values, name="demo", namespace="models")
    except helm_python.HelmError as error:
        found["error"] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
