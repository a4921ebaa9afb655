# SPDX-License-Identifier: Apache-2.0
"""The public surface as text: wire contract, metrics, configuration, client library and command line.

``python -m tests.contract.surface`` writes it anew into ``tests/golden/surface``; ``test_surface.py`` compares. One file for each
command's help, so that branches that add options to different commands merge.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, text_format
from prometheus_client import CollectorRegistry
from typer.main import get_command

import attnserve_client
from attnserve.v1 import (
    caption_pb2,
    classification_pb2,
    decoding_pb2,
    generation_pb2,
    manifest_pb2,
    model_pb2,
    segmentation_pb2,
    single_pass_pb2,
    translation_pb2,
)
from attnserve_client.cli.app import build_app
from attnserve_server.config import ServerConfig, to_toml, variables
from attnserve_server.metrics.histogram import Histogram
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.metrics.sampled import SampledGauge

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "surface"
PROTOS: tuple[Any, ...] = (
    caption_pb2,
    classification_pb2,
    decoding_pb2,
    generation_pb2,
    manifest_pb2,
    model_pb2,
    segmentation_pb2,
    single_pass_pb2,
    translation_pb2,
)
HELP_COLUMNS = 120


def protos() -> dict[str, str]:
    """Each file's descriptor, without comments."""
    found = {}
    for module in PROTOS:
        described = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(described)
        found[f"protos/{Path(described.name).stem}.textproto"] = text_format.MessageToString(described)
    return found


def described() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Each metric: name, type, labels and help text."""
    registry: Any = CollectorRegistry()
    Metrics(registry)
    collectors = registry._collector_to_names  # noqa: SLF001 - nothing public names the labels of a metric without samples
    return sorted(map(_description, collectors))


def _description(metric: Any) -> tuple[str, str, tuple[str, ...], str]:
    if isinstance(metric, SampledGauge):
        return metric.name, "gauge", metric.labels, metric.text
    if isinstance(metric, Histogram):
        return metric.name, "histogram", metric.label_names, metric.text
    return metric._name, metric._type, metric._labelnames, metric._documentation  # noqa: SLF001


def metrics() -> str:
    """One line for each metric: name, type and labels."""
    return "".join(f"{' '.join((name, kind, *labels))}\n" for name, kind, labels, _ in described())


def commands() -> list[str]:
    """All commands, with those of groups, as they are typed."""
    names = [""]

    def walk(command: Any, prefix: str) -> None:
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            names.append(f"{prefix} {name}".strip())
            walk(inner, names[-1])

    walk(get_command(build_app()), "")
    return names


def help_of(command: str) -> str:
    """What ``attnserve COMMAND --help`` prints."""
    plain = {"COLUMNS": str(HELP_COLUMNS), "TERMINAL_WIDTH": str(HELP_COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    program = "import sys; from attnserve_client.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", program, *command.split(), "--help"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ATTNSERVE_", "FORCE_COLOR"))}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environ | plain)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip() + "\n"


def help_file(command: str) -> str:
    """The file of a command's help."""
    return f"help/{'-'.join(['attnserve', *command.split()])}.txt"


def surface() -> dict[str, str]:
    """Everything but the help texts, by file."""
    return {
        **protos(),
        "metrics.txt": metrics(),
        "config.toml": to_toml(ServerConfig()),
        "variables.txt": "".join(f"{name} {key}\n" for name, key in variables().items()),
        "client.txt": "".join(f"{name}\n" for name in sorted(attnserve_client.__all__)),
        "commands.txt": "".join(f"{name}\n" for name in commands() if name),
    }


def write() -> None:
    """Writes all golden files."""
    texts = surface() | {help_file(command): help_of(command) for command in commands()}
    for name, text in texts.items():
        file = FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)


if __name__ == "__main__":
    write()
