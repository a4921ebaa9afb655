# SPDX-License-Identifier: Apache-2.0
"""Reads bundles: the manifest, its files, and the variant for this machine. Uses files and protobuf, and no graphs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import iterative_problems
from attnserve_server.bundle.files import file_problems, is_within, outside_problems
from attnserve_server.bundle.single_pass import single_pass_problems
from attnserve_server.config import DEFAULTS_FILE
from attnserve_server.errors import BundleError, ConfigError

FORMAT_VERSIONS = (1, 2)
SUPPORTED = frozenset({"blocked_steps", "clip_input", "latent_input", "single_pass"})
"""What a manifest of format version 2 may require."""
Check = Callable[[manifest_pb2.Manifest], list[str]]
"""Returns all problems of a manifest, except those of its files."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle and the variant that is served from it."""

    folder: Path
    manifest: manifest_pb2.Manifest
    variant: manifest_pb2.Variant

    @property
    def key(self) -> tuple[str, str]:
        """Model id and version."""
        return self.manifest.model_id, self.manifest.version

    @property
    def max_encoded(self) -> int:
        """Maximum sources of one encoder run; 0 for no limit.

        On a CPU two images take twice as long as one, and the running requests would wait for both.
        """
        return 1 if self.manifest.HasField("image") and self.variant.device == manifest_pb2.DEVICE_CPU else 0

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        return (self.folder / name).read_bytes()


def find_bundles(models: Path) -> list[Path]:
    """Returns the folders ``<models>/<id>/<version>`` that contain a manifest, sorted.

    Raises:
        ConfigError: ``models`` is not a folder, contains no bundle, or its ``defaults.toml`` is a link out of it.
    """
    if not models.is_dir():
        raise ConfigError(f"models: {models} is not a folder")
    defaults = models / DEFAULTS_FILE
    if defaults.is_symlink() and not is_within(defaults, models.resolve()):
        raise ConfigError(f"models: {defaults} is a link out of the repository")
    found = sorted(path.parent for path in models.glob("*/*/manifest.json"))
    if not found:
        raise ConfigError(f"models: no bundle in {models} (looked for <model id>/<version>/manifest.json)")
    return found


def default_models() -> Path:
    """Returns the checkout's ``deploy/models``, or else the folder in the wheel."""
    checkout = Path(__file__).resolve().parents[3] / "deploy" / "models"
    return checkout if checkout.is_dir() else Path(__file__).resolve().parents[1] / "models"


def kind_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns all problems of a manifest for the kind of engine that it declares; a check that knows no task."""
    return single_pass_problems(manifest) if manifest.HasField("single_pass") else iterative_problems(manifest)


def load_bundle(folder: Path, device: str = "cpu", variant: str = "auto", check: Check = kind_problems) -> Bundle:
    """Reads and checks one bundle.

    Nothing outside the bundle's folder is read, and no file but the manifest is parsed before its SHA-256 was compared. The folder
    itself may be a link.

    Args:
        folder: ``<id>/<version>``.
        device: "cpu" or "cuda"; chooses among the variants.
        variant: a variant's name, or "auto" for the first one of the device.
        check: returns what the model's task or kind finds wrong with the manifest.

    Raises:
        BundleError: the bundle is invalid; lists all problems.
    """
    if problems := outside_problems(folder):
        raise BundleError(str(folder), problems)
    manifest = _read_manifest(folder)
    problems = [*_identity_problems(folder, manifest), *file_problems(folder, manifest), *check(manifest)]
    wanted = manifest_pb2.DEVICE_CUDA if device == "cuda" else manifest_pb2.DEVICE_CPU
    fitting = [each for each in manifest.variants if each.device == wanted and variant in ("auto", each.name)]
    if not fitting:
        known = ", ".join(f"{each.name} ({_device(each.device)})" for each in manifest.variants)
        problems.append(f"no variant {variant!r} for {device}; there are {known or 'none'}")
    if problems:
        raise BundleError(str(folder), problems)
    return Bundle(folder, manifest, fitting[0])


def _read_manifest(folder: Path) -> manifest_pb2.Manifest:
    """Parses a manifest of a version that this server reads.

    Raises:
        BundleError: it cannot be parsed, or its version and what it requires are not these. A manifest with fields that this server
            does not know is refused for its version or its requirements, where they say why.
    """
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        try:
            manifest = json_format.Parse(text, manifest_pb2.Manifest())
        except json_format.ParseError:
            known = json_format.Parse(text, manifest_pb2.Manifest(), ignore_unknown_fields=True)
            if known.format_version > 1 and (problems := _version_problems(known)):
                raise BundleError(str(folder), problems) from None
            raise
    except (OSError, UnicodeDecodeError, json_format.ParseError) as error:
        raise BundleError(str(folder), [f"manifest.json: {error}"]) from error
    if problems := _version_problems(manifest):
        raise BundleError(str(folder), problems)
    return manifest


def _version_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    version, unknown = manifest.format_version, sorted(set(manifest.requires) - SUPPORTED)
    if version not in FORMAT_VERSIONS:
        return [f"format version {version}; this server reads {' and '.join(map(str, FORMAT_VERSIONS))}"]
    if unknown:
        return [f"it requires {', '.join(unknown)}, which this server does not support"]
    has_passes = manifest.HasField("single_pass") or any(each.passes for each in manifest.variants)
    has_blocks = any(step.block_rows for variant in manifest.variants for step in variant.steps)
    if version == 1 and (manifest.requires or has_passes or has_blocks):
        return ["format version 1 has neither requires, nor single_pass, nor passes, nor block_rows"]
    if version > 1 and not manifest.requires:
        return [f"format version {version}, and requires is empty"]
    if has_passes and "single_pass" not in manifest.requires:
        return ['single_pass or passes, and requires has no "single_pass"']
    if has_blocks and "blocked_steps" not in manifest.requires:
        return ['block_rows, and requires has no "blocked_steps"']
    if manifest.single_pass.HasField("latent") and "latent_input" not in manifest.requires:
        return ['single_pass.latent, and requires has no "latent_input"']
    if manifest.single_pass.HasField("clip") and "clip_input" not in manifest.requires:
        return ['single_pass.clip, and requires has no "clip_input"']
    return []


def _device(number: int) -> str:
    """The name of a device; for a number that this server does not know, the number."""
    return manifest_pb2.Device.Name(number) if number in manifest_pb2.Device.values() else str(number)


def _identity_problems(folder: Path, manifest: manifest_pb2.Manifest) -> list[str]:
    problems = []
    if (manifest.model_id, manifest.version) != (folder.parent.name, folder.name):
        problems.append(f"manifest says {manifest.model_id}/{manifest.version}, the folders {folder.parent.name}/{folder.name}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", manifest.model_id) or not re.fullmatch(r"[0-9]+", manifest.version):
        problems.append("model_id must be lower case letters, digits, dots and dashes; version a decimal number")
    return problems
