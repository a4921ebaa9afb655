# SPDX-License-Identifier: Apache-2.0
"""Bundles that cannot be served: each kind of fault is named, and all faults of a bundle at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import find_bundles, load_bundle
from attnserve_server.errors import BundleError, ConfigError
from attnserve_server.tasks.registry import TaskTable
from tests.fakes.bundles import sound_bundle, sound_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound_bundle(tmp_path)


def write(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def problems_of(folder: Path, **options: str) -> list[str]:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder, check=TaskTable().problems, **options)
    assert str(folder) in str(caught.value)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_sound_bundle(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.key == ("a-model", "2")
    assert bundle.variant.name == "fp32"
    assert bundle.read("weights.bin") == b"weights"


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at a dotted path."""

    def apply(manifest: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = manifest
        for part in parents:
            place = place[part]
        place[last] = value

    return apply


STEP = "variants.0.steps.0"
BROKEN = {
    "identity": (change("model_id", "another"), "another/2"),
    "version of another folder": (change("version", "3"), "a-model/3"),
    "version is no number": (change("version", "two"), "decimal number"),
    "id with capitals": (change("model_id", "A-Model"), "lower case"),
    "no task": (change("task", "TASK_UNSPECIFIED"), "is not served"),
    "no limit": (change("limits.max_beam_size", 0), "limits.max_beam_size is missing"),
    "no source limit": (change("limits.max_source_tokens", 0), "limits.max_source_tokens is missing"),
    "an image for a translation": (change("image", {"height": 8, "width": 8, "grid_height": 2, "grid_width": 2}), "only captioning models have it, and all of them must"),
    "a caption without image": (change("task", "TASK_CAPTION"), "only captioning models have it, and all of them must"),
    "no grid": (
        lambda manifest: (change("task", "TASK_CAPTION")(manifest), change("image", {"height": 8, "width": 8, "grid_height": 2})(manifest)),
        "image.grid_width is missing",
    ),
    "encoder has an unknown input": (change("variants.0.encode.inputs.0.name", "image"), "encode has the unknown input image"),
    "tokenizer not named": (change("vocabulary.sentencepiece_file", ""), "(empty name) is named but not listed"),
    "graph not listed": (change(f"{STEP}.graph.file", "other.onnx"), "other.onnx is named but not listed"),
    "file not listed": (lambda manifest: manifest["files"].pop(), "weights.bin is not listed"),
    "other digest": (change("files.0.sha256", "0" * 64), "encode.onnx is not the file that was listed"),
    "file missing": (lambda manifest: manifest["files"].append({"name": "gone.bin", "sha256": "", "num_bytes": 1}), "gone.bin is missing"),
    "scope and axis": (change("states.0.scope", "SCOPE_REQUEST"), "state cache: scope and first axis do not agree"),
    "no scope": (change("states.0.scope", "SCOPE_UNSPECIFIED"), "state cache: scope and first axis do not agree"),
    "axis without size": (change("states.0.growing_axis", ""), "state cache: axes ['target'] have no size"),
    "no capacity": (change("states.0.capacity", 0), "state cache: no capacity"),
    "short capacity": (change("states.0.capacity", 15), "state cache: capacity 15 is below the model's limit 16"),
    "short memory": (change("states.1.capacity", 15), "state memory: capacity 15 is below the model's limit 16"),
    "encode output": (change("states.1.encode_output", "nothing"), "encode gives no nothing"),
    "step output": (change("states.0.step_output", "nothing"), "no output nothing"),
    "no step graph": (change("variants.0.steps", []), "no step graph"),
    "unknown input": (change(f"{STEP}.graph.inputs.1.name", "weather"), "unknown input weather"),
    "no token": (change(f"{STEP}.graph.inputs.0.name", "position"), "no input token"),
    "no scores": (change(f"{STEP}.graph.outputs.0.name", "guesses"), "none of the outputs"),
    "attention is not an output": (change(f"{STEP}.gives_attention", True), "no attention output"),
    "attention of other axes": (
        lambda manifest: (change(f"{STEP}.gives_attention", True)(manifest), change("attention", {"output": "next", "num_layers": 2, "num_heads": 1})(manifest)),
        "attention has layers and heads ['target'], the manifest declares ['2', '1']",
    ),
    "mean over a layer too many": (change("attention", {"num_layers": 2, "num_heads": 1, "mean_layers": [1, 2]}), "mean_layers has 2, but num_layers is 2"),
    "mean over a head too many": (change("attention", {"num_layers": 1, "num_heads": 4, "mean_heads": [4]}), "mean_heads has 4, but num_heads is 4"),
    "layers without heads": (change("attention", {"num_layers": 4}), "num_layers and num_heads must both be set, or both be 0"),
    "heads without layers": (change("attention", {"num_heads": 4}), "num_layers and num_heads must both be set, or both be 0"),
    "rows without indices": (change(f"{STEP}.graph.inputs.1.name", "position"), "no input maps rows to requests"),
    "variant": (change("variants.0.device", "DEVICE_CUDA"), "no variant 'auto' for cpu"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_fault_is_named(folder: Path, fault: str) -> None:
    manifest = sound_manifest()
    break_it, text = BROKEN[fault]
    break_it(manifest)
    write(folder, manifest)
    problems = problems_of(folder)
    assert any(text in problem for problem in problems), problems


def test_all_faults_at_once(folder: Path) -> None:
    manifest = sound_manifest()
    independent = ["no limit", "file missing", "no capacity", "unknown input", "no scores", "variant"]
    for fault in independent:
        BROKEN[fault][0](manifest)
    write(folder, manifest)
    (folder / "weights.bin").write_bytes(b"tampered")
    (folder / "notes.txt").write_bytes(b"mine")
    (folder / "encode.onnx").unlink()
    problems = problems_of(folder)
    wanted = [BROKEN[fault][1] for fault in independent]
    wanted += ["weights.bin is not the file that was listed", "notes.txt is not listed", "encode.onnx is missing"]
    for text in wanted:
        assert any(text in problem for problem in problems), (text, problems)


def test_tampered_file_of_the_same_size(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weightz")
    assert problems_of(folder) == ["weights.bin is not the file that was listed (SHA-256 differs)"]


def test_unlisted_file_in_a_folder_below(folder: Path) -> None:
    (folder / "extra").mkdir()
    (folder / "extra" / "code.py").write_bytes(b"")
    assert problems_of(folder) == ["extra/code.py is not listed"]


@pytest.mark.parametrize("version", [0, 3])
def test_other_format_version(folder: Path, version: int) -> None:
    write(folder, sound_manifest() | {"format_version": version})
    (problem,) = problems_of(folder)
    assert f"format version {version}; this server reads 1 and 2" in problem


@pytest.mark.parametrize(
    "text", ['{"format_version": 1, "surprise": 2}', "{", "", "\xff", '{"limits": {"max_tokens": 1}}', '{"format_version": "one"}']
)
def test_manifest_that_cannot_be_read(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    (problem,) = problems_of(folder)
    assert problem.startswith("manifest.json: ")


def test_unknown_key_is_named(folder: Path) -> None:
    write(folder, sound_manifest() | {"surprise": 1})
    assert "surprise" in problems_of(folder)[0]


def test_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert problems_of(folder)[0].startswith("manifest.json: ")


@pytest.mark.parametrize(("asked", "found"), [("auto", "int8"), ("int8", "int8"), ("fp32", "fp32")])
def test_the_first_of_several_variants_unless_named(folder: Path, asked: str, found: str) -> None:
    manifest = sound_manifest()
    (fp32,) = manifest["variants"]
    manifest["variants"] = [fp32 | {"name": "fp16", "device": "DEVICE_CUDA"}, fp32 | {"name": "int8"}, fp32]
    write(folder, manifest)
    bundle = load_bundle(folder, variant=asked)
    assert (bundle.variant.name, bundle.variant.device) == (found, manifest_pb2.DEVICE_CPU)


def test_variant_by_name(folder: Path) -> None:
    assert load_bundle(folder, variant="fp32").variant.device == manifest_pb2.DEVICE_CPU
    (problem,) = problems_of(folder, variant="int8")
    assert problem == "no variant 'int8' for cpu; there are fp32 (DEVICE_CPU)"
    (problem,) = problems_of(folder, device="cuda")
    assert "no variant 'auto' for cuda" in problem


def test_find_bundles(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "b-model" / "1"
    other.mkdir(parents=True)
    write(other, sound_manifest())
    (tmp_path / "b-model" / "notes").mkdir()
    assert find_bundles(tmp_path) == [folder, other]
    with pytest.raises(ConfigError, match="is not a folder"):
        find_bundles(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no bundle in"):
        find_bundles(other)
