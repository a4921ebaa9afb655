# SPDX-License-Identifier: Apache-2.0
"""Reads bundles: the manifest, its checks, and which variant this machine runs. Knows files and protobuf, nothing of graphs."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_server.errors import BundleError, ConfigError

FORMAT_VERSION = 1
STEP_INPUTS = {"token", "position", "source_length", "request_of_row", "rows_of_request", "place_of_row"}
STEP_SCORES = {"logits", "log_probs", "top_log_probs"}
_TASKS = (manifest_pb2.TASK_TRANSLATION, manifest_pb2.TASK_CAPTION)
_ROUTING = {"request_of_row", "rows_of_request", "place_of_row"}


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
        """Sources that one encoder run takes at most, 0 for any number.

        On a CPU two images take twice as long as one, and all others would wait that long.
        """
        return 1 if self.manifest.HasField("image") and self.variant.device == manifest_pb2.DEVICE_CPU else 0

    def read(self, name: str) -> bytes:
        """A file of the bundle."""
        return (self.folder / name).read_bytes()


def find_bundles(models: Path) -> list[Path]:
    """The folders ``<models>/<id>/<version>`` that hold a manifest, sorted.

    Raises:
        ConfigError: ``models`` is no folder, or no bundle is in it.
    """
    if not models.is_dir():
        raise ConfigError(f"models: {models} is not a folder")
    found = sorted(path.parent for path in models.glob("*/*/manifest.json"))
    if not found:
        raise ConfigError(f"models: no bundle in {models} (looked for <model id>/<version>/manifest.json)")
    return found


def default_models() -> Path:
    """The checkout's ``deploy/models``, else the folder that the wheel carries."""
    checkout = Path(__file__).resolve().parents[3] / "deploy" / "models"
    return checkout if checkout.is_dir() else Path(__file__).resolve().parents[1] / "models"


def load_bundle(folder: Path, device: str = "cpu", variant: str = "auto") -> Bundle:
    """Reads and checks one bundle.

    Args:
        folder: ``<id>/<version>``.
        device: "cpu" or "cuda"; chooses among the variants.
        variant: a variant's name, or "auto" for the first one of the device.

    Raises:
        BundleError: with everything that is wrong at once.
    """
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        manifest = json_format.Parse(text, manifest_pb2.Manifest())
    except (OSError, UnicodeDecodeError, json_format.ParseError) as error:
        raise BundleError(str(folder), [f"manifest.json: {error}"]) from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(str(folder), [f"format version {manifest.format_version}; this server reads {FORMAT_VERSION}"])
    problems = [*_identity_problems(folder, manifest), *_file_problems(folder, manifest), *_state_problems(manifest)]
    problems += _attention_problems(manifest.attention)
    for each in manifest.variants:
        problems += _variant_problems(manifest, each)
    wanted = manifest_pb2.DEVICE_CUDA if device == "cuda" else manifest_pb2.DEVICE_CPU
    fitting = [each for each in manifest.variants if each.device == wanted and variant in ("auto", each.name)]
    if not fitting:
        known = ", ".join(f"{each.name} ({manifest_pb2.Device.Name(each.device)})" for each in manifest.variants)
        problems.append(f"no variant {variant!r} for {device}; there are {known or 'none'}")
    if problems:
        raise BundleError(str(folder), problems)
    return Bundle(folder, manifest, fitting[0])


def _identity_problems(folder: Path, manifest: manifest_pb2.Manifest) -> list[str]:
    problems = []
    if (manifest.model_id, manifest.version) != (folder.parent.name, folder.name):
        problems.append(f"manifest says {manifest.model_id}/{manifest.version}, the folders {folder.parent.name}/{folder.name}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", manifest.model_id) or not manifest.version.isdigit():
        problems.append("model_id must be lower case letters, digits, dots and dashes; version a decimal number")
    if manifest.task not in _TASKS:
        problems.append(f"task {manifest.task} is not served")
    reads_image = manifest.task == manifest_pb2.TASK_CAPTION
    if manifest.HasField("image") != reads_image:
        problems.append("image: a captioning model has it, and no other")
    wanted = ["max_target_tokens", "max_beam_size", *([] if reads_image else ["max_source_tokens"])]
    problems += [f"limits.{name} is missing" for name in wanted if not getattr(manifest.limits, name)]
    wanted = ["height", "width", "grid_height", "grid_width"] if reads_image else []
    problems += [f"image.{name} is missing" for name in wanted if not getattr(manifest.image, name)]
    return problems


def _file_problems(folder: Path, manifest: manifest_pb2.Manifest) -> list[str]:
    problems = []
    listed = {file.name: file for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    problems += [f"{name} is not listed" for name in sorted(present - set(listed))]
    for name, file in sorted(listed.items()):
        if name not in present:
            problems.append(f"{name} is missing")
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != file.sha256:
            problems.append(f"{name} is not the file that was listed (SHA-256 differs)")
    named = {manifest.vocabulary.sentencepiece_file}
    for variant in manifest.variants:
        named |= {variant.encode.file, *(step.graph.file for step in variant.steps)}
    problems += [f"{name or '(empty name)'} is named but not listed" for name in sorted(named - set(listed))]
    return problems


def _state_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    problems = []
    for state in manifest.states:
        first = {manifest_pb2.SCOPE_REQUEST: "request", manifest_pb2.SCOPE_HYPOTHESIS: "row"}.get(state.scope)
        if first is None or not state.axes or state.axes[0] != first:
            problems.append(f"state {state.name}: scope and first axis do not agree")
        named = [axis for axis in state.axes[1:] if not axis.isdigit()]
        if named != ([state.growing_axis] if state.growing_axis else []):
            problems.append(f"state {state.name}: axes {named} have no size")
        if state.growing_axis and not state.capacity:
            problems.append(f"state {state.name}: no capacity")
        least = manifest.limits.max_target_tokens if state.growing_axis == "target" else manifest.limits.max_source_tokens + 1
        if state.growing_axis and state.capacity < least:
            problems.append(f"state {state.name}: capacity {state.capacity} is below the model's limit {least}")
    return problems


def _attention_problems(attention: manifest_pb2.AttentionOutput) -> list[str]:
    named = {"layer": (attention.num_layers, attention.mean_layers), "head": (attention.num_heads, attention.mean_heads)}
    if bool(attention.num_layers) != bool(attention.num_heads):
        return ["attention: it has layers and heads, or neither"]
    return [
        f"attention: the mean takes {name} {index}, but there are {size}"
        for name, (size, indices) in named.items()
        for index in indices
        if index >= size
    ]


def _output_problems(attention: manifest_pb2.AttentionOutput, graph: manifest_pb2.Graph) -> list[str]:
    sizes = [str(size) for size in (attention.num_layers, attention.num_heads) if size]
    for tensor in graph.outputs:
        if tensor.name == attention.output:
            inner = list(tensor.axes[1:-1])
            return [] if inner == sizes else [f"attention has layers and heads {inner}, declared are {sizes}"]
    return ["no attention output"]


def _most_rows(step: manifest_pb2.StepGraph) -> float:
    """Rows of one request at most, infinite for any number."""
    return step.max_rows_of_request or math.inf


def _variant_problems(manifest: manifest_pb2.Manifest, variant: manifest_pb2.Variant) -> list[str]:
    problems = []
    where = f"variant {variant.name}"
    inputs = {tensor.name for tensor in variant.encode.inputs}
    known = {"image"} if manifest.HasField("image") else {"source", "source_length"}
    problems += [f"{where}: encode has the unknown input {name}" for name in sorted(inputs - known)]
    encoded = {tensor.name for tensor in variant.encode.outputs}
    missing = {state.encode_output for state in manifest.states} - encoded - {""}
    problems += [f"{where}: encode gives no {name}" for name in sorted(missing)]
    states = {state.name for state in manifest.states}
    if not variant.steps:
        problems.append(f"{where}: no step graph")
    most = {
        flag: max((_most_rows(step) for step in variant.steps if step.gives_attention == flag), default=0) for flag in (False, True)
    }
    if 0 < most[True] < most[False]:
        problems.append(f"{where}: the graphs that give attention take fewer rows of a request than the others")
    for step in variant.steps:
        inputs, outputs = {tensor.name for tensor in step.graph.inputs}, {tensor.name for tensor in step.graph.outputs}
        problems += [f"{where}, {step.graph.file}: unknown input {name}" for name in sorted(inputs - states - STEP_INPUTS)]
        if "token" not in inputs:
            problems.append(f"{where}, {step.graph.file}: no input token")
        if not outputs & STEP_SCORES:
            problems.append(f"{where}, {step.graph.file}: none of the outputs {', '.join(sorted(STEP_SCORES))}")
        needed = {state.step_output for state in manifest.states if state.name in inputs} - {""}
        problems += [f"{where}, {step.graph.file}: no output {name}" for name in sorted(needed - outputs)]
        if step.gives_attention:
            problems += [f"{where}, {step.graph.file}: {each}" for each in _output_problems(manifest.attention, step.graph)]
        if step.max_rows_of_request != 1 and not inputs & _ROUTING:
            problems.append(f"{where}, {step.graph.file}: takes several rows a request, but no input says which")
    return problems
