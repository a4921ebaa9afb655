# SPDX-License-Identifier: Apache-2.0
"""The chart, rendered by Helm, and its manifests, checked against the schemas of Kubernetes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.deploy import tools
from tests.deploy.containers import ROOT

CHART = ROOT / "deploy/helm/attnserve"
KUBERNETES = ("1.37", "1.27")
"""The newest version whose schemas are there, and the oldest that the chart accepts."""
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
"""Kinds that are none of Kubernetes' own: :func:`custom_faults` checks them."""
Manifest = dict[str, Any]


def environment() -> Path:
    """The folder of the programs of Helm and of the checker."""
    return tools.python("helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0")


def helm(values: Manifest, chart: Path = CHART) -> dict[str, Any]:
    """What :mod:`tests.deploy.helm_program` says."""
    program = Path(__file__).with_name("helm_program.py")
    output = tools.called(environment() / "python", program, chart, json.dumps(values))
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def rendered(values: Manifest) -> list[Manifest]:
    """The manifests of the chart.

    Raises:
        AssertionError: Helm does not render it; the message is Helm's.
    """
    found = helm(values)
    assert not found["error"], found["error"]
    texts = [text for name, text in sorted(found["manifests"].items()) if not name.endswith("NOTES.txt")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def one(manifests: list[Manifest], kind: str, ending: str = "") -> Manifest:
    """The only manifest of a kind, or of those whose name ends so."""
    (found,) = (each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(ending))
    return found


def faults(manifests: list[Manifest], version: str) -> list[str]:
    """What the schemas of a version of Kubernetes say about manifests, strictly; an unknown kind is a fault."""
    known = [each for each in manifests if each["kind"] not in CUSTOM]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "manifests.yaml")
        file.write_text(yaml.safe_dump_all(known), encoding="utf-8")
        command = [environment() / "kubernetes-validate", "--strict", "--kubernetes-version", version, file]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    lines = [line.replace(str(file), "manifests.yaml") for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    passed = sum("passed for resource" in line for line in lines)
    found = [line for line in lines if not line.startswith("INFO")]
    return found or ([] if (done.returncode, passed) == (0, len(known)) else [f"{passed} of {len(known)} manifests were checked"])


def custom_faults(manifests: list[Manifest]) -> list[str]:
    """What the schemas of the custom kinds say about their manifests; a kind without a schema is a fault."""
    modules = tools.npm("@kubernetes-models/prometheus-operator@6.0.0", "@kubernetes-models/keda@2.0.0")
    script = modules / "check.mjs"
    script.write_text(Path(__file__).with_name("custom_resources.mjs").read_text(encoding="utf-8"), encoding="utf-8")
    custom = [each for each in manifests if each["kind"] in CUSTOM]
    found: list[str] = json.loads(tools.called(tools.node()[0], script, json.dumps(custom)))
    return found
