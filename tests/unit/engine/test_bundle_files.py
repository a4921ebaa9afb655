# SPDX-License-Identifier: Apache-2.0
"""Files of a bundle: none outside its folder is read, by a path, a link, or the external data of a graph."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from attnserve_server.bundle.graphs import external_files
from attnserve_server.bundle.loader import find_bundles, load_bundle
from attnserve_server.errors import BundleError, ConfigError
from tests.driving import ALL_BUNDLES
from tests.fakes.bundles import sound_bundle, write_manifest

OPENED: list[str] | None = None
"""Files that were opened since :func:`opened_files` began; None outside."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Records every file that this process opens; what happens in the block must not import modules."""
    global OPENED  # noqa: PLW0603 - an audit hook cannot be removed
    OPENED = found = []
    try:
        yield found
    finally:
        OPENED = None


def opened_outside(folder: Path) -> list[str]:
    """The files outside the folder that the loader opens, links resolved."""
    with opened_files() as found, suppress(BundleError):
        load_bundle(folder)
    return [name for name in found if not Path(name).resolve().is_relative_to(folder.resolve())]


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    return caught.value.problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound_bundle(tmp_path / "models")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the repository, with the digest that a manifest could list."""
    path = tmp_path / "secret.bin"
    path.write_bytes(b"weights")
    return path


def list_file(folder: Path, name: str, data: bytes) -> None:
    """Adds a file to the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        others = [file for file in manifest["files"] if file["name"] != name]
        manifest["files"] = [*others, {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}]

    write_manifest(folder, change)


@pytest.mark.parametrize(
    "name", ["../../../secret.bin", "{absolute}", "../2/weights.bin", "./weights.bin", "a/../weights.bin", "\x00", "."]
)
def test_listed_path_that_is_no_plain_name_is_missing(folder: Path, secret: Path, name: str) -> None:
    name = name.replace("{absolute}", str(secret))
    list_file(folder, name, b"weights")
    assert problems_of(folder) == [f"{name} is missing"]
    assert opened_outside(folder) == []


@pytest.mark.parametrize("name", ["../../../secret.bin", "{absolute}"])
@pytest.mark.parametrize("place", ["graph", "tokenizer", "golden"])
def test_named_path_out_of_the_bundle_is_refused(folder: Path, secret: Path, place: str, name: str) -> None:
    name = name.replace("{absolute}", str(secret))

    def change(manifest: dict[str, Any]) -> None:
        if place == "graph":
            manifest["variants"][0]["encode"]["file"] = name
        elif place == "tokenizer":
            manifest["vocabulary"]["sentencepiece_file"] = name
        else:
            manifest["golden_file"] = name

    write_manifest(folder, change)
    assert f"{name} is named but not listed" in problems_of(folder)
    assert opened_outside(folder) == []


def link_to_file(folder: Path, secret: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(secret)


def relative_link_to_file(folder: Path, _: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("../../../secret.bin")


def link_to_folder(folder: Path, secret: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(secret.parent)


def link_in_folder_below(folder: Path, secret: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "weights.bin").symlink_to(secret)


def link_of_link(folder: Path, secret: Path) -> None:
    (folder / "first").symlink_to(secret)
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("first")


def link_to_another_bundle(folder: Path, _: Path) -> None:
    other = sound_bundle(folder.parents[1], version="3")
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(other / "weights.bin")


def link_to_nothing(folder: Path, _: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("nowhere")


def link_to_itself(folder: Path, _: Path) -> None:
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("weights.bin")


def link_as_manifest(folder: Path, secret: Path) -> None:
    (folder / "manifest.json").replace(secret)
    (folder / "manifest.json").symlink_to(secret)


LINKS = (
    *(link_to_file, relative_link_to_file, link_to_folder, link_in_folder_below, link_of_link, link_to_another_bundle),
    *(link_to_nothing, link_to_itself, link_as_manifest),
)


@pytest.mark.parametrize("make", LINKS, ids=lambda make: make.__name__)
def test_link_out_of_the_bundle_is_refused_and_not_followed(folder: Path, secret: Path, make: Callable[[Path, Path], None]) -> None:
    make(folder, secret)
    problems = problems_of(folder)
    assert problems
    assert all(problem.endswith("is a link out of the bundle") for problem in problems)
    assert opened_outside(folder) == []


def test_link_within_the_bundle_and_link_to_the_bundle_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.bin").rename(folder / "other.bin")
    (folder / "weights.bin").symlink_to("other.bin")
    list_file(folder, "other.bin", b"weights")
    assert load_bundle(folder).read("weights.bin") == b"weights"
    linked = tmp_path / "elsewhere"
    linked.mkdir()
    (linked / "a-model").symlink_to(folder.parent)
    assert load_bundle(linked / "a-model" / "2").read("weights.bin") == b"weights"


def test_defaults_that_are_a_link_out_of_the_repository_are_refused(folder: Path, secret: Path) -> None:
    models = folder.parents[1]
    (models / "defaults.toml").symlink_to(secret)
    with opened_files() as found, pytest.raises(ConfigError, match="is a link out of the repository"):
        find_bundles(models)
    assert found == []
    (models / "defaults.toml").unlink()
    (models / "other.toml").write_text("")
    (models / "defaults.toml").symlink_to("other.toml")
    assert find_bundles(models) == [folder]


@pytest.mark.timeout(60)
def test_manifest_that_is_a_pipe_or_a_folder_is_not_opened(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert problems_of(folder) == ["manifest.json: not a regular file"]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    assert problems_of(folder) == ["manifest.json: not a regular file"]


def test_audit_sees_a_file_outside(folder: Path, secret: Path) -> None:
    with opened_files() as found:
        load_bundle(folder)
        secret.read_bytes()
    assert found[-1] == str(secret)
    assert str(folder / "weights.bin") in found


def external(location: str, *, key: str = "location") -> TensorProto:
    """A tensor of four numbers with external data."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key=key, value=location)
    tensor.external_data.add(key="length", value="16")
    return tensor


def in_initializer(tensor: TensorProto) -> onnx.GraphProto:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    return helper.make_graph([add], "g", values[:1], values[1:], [tensor])


def in_attribute(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "g", [], [])


def in_branch(tensor: TensorProto) -> onnx.GraphProto:
    inner = in_attribute(tensor)
    return helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "g", [], [])


def in_sparse_initializer(tensor: TensorProto) -> onnx.GraphProto:
    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.add(values=tensor)
    return graph


def model_of(graph: onnx.GraphProto) -> bytes:
    return bytes(helper.make_model(graph).SerializeToString())


def in_function(tensor: TensorProto) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.functions.add(name="f", domain="d").node.add().CopyFrom(helper.make_node("Constant", [], ["y"], value=tensor))
    return bytes(model.SerializeToString())


def in_training(tensor: TensorProto) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.training_info.add().initialization.CopyFrom(in_initializer(tensor))
    return bytes(model.SerializeToString())


PLACES: dict[str, Callable[[TensorProto], bytes]] = {
    "initializer": lambda tensor: model_of(in_initializer(tensor)),
    "attribute": lambda tensor: model_of(in_attribute(tensor)),
    "branch": lambda tensor: model_of(in_branch(tensor)),
    "sparse initializer": lambda tensor: model_of(in_sparse_initializer(tensor)),
    "function": in_function,
    "training": in_training,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../../secret.bin", "/etc/hostname", "../2/weights.bin", "*/_ORT_MEM_ADDR_/*", "", "nöte.bin"]
)
def test_external_data_that_is_no_listed_file_is_refused(folder: Path, place: str, location: str) -> None:
    data = PLACES[place](external(location))
    assert external_files(data) == {location}
    (folder / "encode.onnx").write_bytes(data)
    list_file(folder, "encode.onnx", data)
    assert problems_of(folder) == [f"encode.onnx: its external data {location!r} is not a listed file"]


def test_external_data_of_a_listed_file_is_accepted(folder: Path) -> None:
    data = PLACES["initializer"](external("weights.bin"))
    (folder / "encode.onnx").write_bytes(data)
    list_file(folder, "encode.onnx", data)
    assert load_bundle(folder).variant.encode.file == "encode.onnx"


@pytest.mark.parametrize("data", [b"", b"no graph", b"\xff" * 20, PLACES["initializer"](external("x", key="offset"))])
def test_bytes_without_external_data(data: bytes) -> None:
    assert external_files(data) == set()


@pytest.mark.parametrize("model", ALL_BUNDLES)
def test_external_data_of_shipped_models_is_what_the_onnx_library_finds(model: str) -> None:
    for path in ALL_BUNDLES[model].glob("*.onnx"):
        loaded = onnx.load(path, load_external_data=False)
        entries = [entry for tensor in loaded.graph.initializer for entry in tensor.external_data]
        assert external_files(path.read_bytes()) == {entry.value for entry in entries if entry.key == "location"}


@pytest.mark.parametrize("version", ["²", "١", "1\n", "+1", " 1", "1_0", ""])
def test_version_of_other_digits_is_refused(tmp_path: Path, version: str) -> None:
    """``int("²")`` raises, though ``"²".isdigit()``."""
    folder = sound_bundle(tmp_path, version=version or "empty")
    write_manifest(folder, lambda manifest: manifest.update(version=version))
    assert any("version a decimal number" in problem for problem in problems_of(folder))
