# SPDX-License-Identifier: Apache-2.0
"""A small bundle whose manifest is sound and whose files are only listed: no graph of it can be run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = {"encode.onnx": b"encode", "step.onnx": b"step", "pieces.model": b"pieces", "weights.bin": b"weights"}
FLOAT32, INT64 = "DATA_TYPE_FLOAT32", "DATA_TYPE_INT64"


def tensor(name: str, dtype: str, *axes: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "axes": list(axes)}


def sound_manifest() -> dict[str, Any]:
    """A manifest as JSON, of a model with one state."""
    cache = tensor("cache", FLOAT32, "row", "target", "4")
    memory = tensor("memory", FLOAT32, "request", "source", "4")
    step_inputs = [tensor("token", INT64, "row"), tensor("request_of_row", INT64, "row"), cache, memory]
    step_outputs = [tensor("logits", FLOAT32, "row", "10"), tensor("next", FLOAT32, "row", "target", "4")]
    return {
        "format_version": 1,
        "model_id": "a-model",
        "version": "2",
        "task": "TASK_TRANSLATION",
        "limits": {"max_source_tokens": 15, "max_target_tokens": 16, "max_beam_size": 4},
        "vocabulary": {"sentencepiece_file": "pieces.model", "size": 10, "begin_id": 2, "end_id": 3},
        "states": [
            {"name": "cache", "scope": "SCOPE_HYPOTHESIS", "axes": cache["axes"], "step_output": "next", "growing_axis": "target", "capacity": 16},
            {"name": "memory", "scope": "SCOPE_REQUEST", "axes": memory["axes"], "encode_output": "read", "growing_axis": "source", "capacity": 16},
        ],
        "variants": [
            {
                "name": "fp32",
                "device": "DEVICE_CPU",
                "encode": {
                    "file": "encode.onnx",
                    "inputs": [tensor("source", INT64, "request", "source")],
                    "outputs": [tensor("read", FLOAT32, "request", "source", "4")],
                },
                "steps": [{"graph": {"file": "step.onnx", "inputs": step_inputs, "outputs": step_outputs}}],
            }
        ],
        "files": [{"name": name, "sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)} for name, data in FILES.items()],
    }  # fmt: skip


def sound_bundle(models: Path, version: str = "2") -> Path:
    """Writes the bundle into a model repository; returns its folder."""
    folder = models / "a-model" / version
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    manifest = sound_manifest() | {"version": version}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest of a bundle."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
