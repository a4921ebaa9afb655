# SPDX-License-Identifier: Apache-2.0
"""Written bundles: equal tensors are stored once, in 16 bits where that is exact, and every file is listed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import WEIGHTS_FILE, WeightStore, read_manifest, write_bundle, write_manifest

SIZE = 32
RNG = np.random.default_rng(0)
LOSSLESS = RNG.integers(-8, 8, (SIZE, SIZE)).astype(np.float32) / 4
PRECISE = RNG.standard_normal((SIZE, SIZE)).astype(np.float32)
SMALL = RNG.standard_normal(SIZE).astype(np.float32)
MANIFEST = manifest_pb2.Manifest(format_version=1, model_id="m", version="1")


def graph(**weights: np.ndarray) -> onnx.ModelProto:
    """y = x W1 W2 ... for the given matrices; vectors are added."""
    nodes, last = [], "x"
    for index, (name, value) in enumerate(weights.items()):
        following = f"y{index}"
        nodes.append(
            helper.make_node("MatMul" if value.ndim == 2 else "Add", [last, name], [following], doc_string="a stack trace")
        )
        last = following
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIZE]) for name in ("x", last)]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], initializers), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    return model


def run(model: Path | bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.linspace(-1, 1, 3 * SIZE, dtype=np.float32).reshape(3, SIZE)})
    return np.asarray(result)


def stored(folder: Path, name: str) -> dict[str, tuple[int, int]]:
    """Offset and length of a graph's external tensors."""
    found = {}
    for each in onnx.load(folder / name, load_external_data=False).graph.initializer:
        if each.external_data:
            place = {entry.key: entry.value for entry in each.external_data}
            assert place["location"] == WEIGHTS_FILE
            found[each.name] = int(place["offset"]), int(place["length"])
    return found


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    graphs = {"a.onnx": graph(p=PRECISE, q=PRECISE.copy()), "b.onnx": graph(other_name=PRECISE)}
    write_bundle(tmp_path / "m", MANIFEST, graphs, {})
    assert (tmp_path / "m" / WEIGHTS_FILE).stat().st_size == PRECISE.nbytes
    places = {*stored(tmp_path / "m", "a.onnx").values(), *stored(tmp_path / "m", "b.onnx").values()}
    assert places == {(0, PRECISE.nbytes)}


def test_sixteen_bits_where_nothing_is_lost(tmp_path: Path) -> None:
    almost = LOSSLESS.copy()
    almost[3, 5] += 1e-4
    huge = LOSSLESS.copy()
    huge[0, 0] = 1e6
    write_bundle(tmp_path / "m", MANIFEST, {"a.onnx": graph(w=LOSSLESS, almost=almost, huge=huge)}, {})
    lengths = {name: length for name, (_, length) in stored(tmp_path / "m", "a.onnx").items()}
    assert lengths == {"w.half": LOSSLESS.nbytes // 2, "almost": almost.nbytes, "huge": huge.nbytes}


def test_half_of_a_graph_shares_the_bytes_of_the_whole(tmp_path: Path) -> None:
    store = WeightStore()
    whole, half = graph(w=LOSSLESS), graph(w=LOSSLESS.astype(np.float16))
    store.externalize(whole)
    store.externalize(half)
    assert len(store.data) == LOSSLESS.nbytes // 2


def test_written_graphs_compute_the_same(tmp_path: Path) -> None:
    model = graph(w=LOSSLESS, b=SMALL, p=PRECISE)
    before = model.SerializeToString()
    write_bundle(tmp_path / "m", MANIFEST, {"a.onnx": model}, {})
    assert np.array_equal(run(tmp_path / "m" / "a.onnx"), run(before))
    assert model.SerializeToString() == before, "the caller's graph was changed"


def test_tensors_are_aligned_and_small_ones_stay_in_the_graph(tmp_path: Path) -> None:
    odd = RNG.standard_normal((SIZE, SIZE + 1)).astype(np.float32)
    back = RNG.standard_normal((SIZE + 1, SIZE)).astype(np.float32)
    write_bundle(tmp_path / "m", MANIFEST, {"a.onnx": graph(b=SMALL, odd=odd, back=back)}, {})
    places = stored(tmp_path / "m", "a.onnx")
    assert set(places) == {"odd", "back"}
    assert all(offset % 64 == 0 for offset, _ in places.values())


def test_notes_are_stripped(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", MANIFEST, {"a.onnx": graph(w=PRECISE)}, {})
    assert b"a stack trace" not in (tmp_path / "m" / "a.onnx").read_bytes()


def test_every_file_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "left over").write_bytes(b"")
    returned = write_bundle(folder, MANIFEST, {"a.onnx": graph(w=PRECISE)}, {"card.md": b"# card"})
    assert not (folder / "left over").exists()
    manifest = read_manifest(folder)
    assert manifest == returned
    assert {file.name for file in manifest.files} == {"a.onnx", "card.md", WEIGHTS_FILE}
    assert {path.name for path in folder.iterdir()} == {"a.onnx", "card.md", WEIGHTS_FILE, "manifest.json"}
    for file in manifest.files:
        data = (folder / file.name).read_bytes()
        assert (file.sha256, file.num_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert {each.name for each in manifest.producers} >= {"torch", "onnxruntime"}


def test_rewritten_manifest_has_the_digests_of_now(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    written = write_bundle(folder, MANIFEST, {"a.onnx": graph(w=PRECISE)}, {"card.md": b"# card"})
    (folder / "card.md").write_bytes(b"# another")
    again = write_manifest(folder, written)
    digests = {file.name: file.sha256 for file in again.files}
    assert digests["card.md"] == hashlib.sha256(b"# another").hexdigest()
    assert len(again.files) == len(written.files)
    assert again.producers == written.producers
    assert "format_version" in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["a.onnx", WEIGHTS_FILE, "manifest.json"])
def test_same_input_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("one", "two"):
        write_bundle(tmp_path / folder, MANIFEST, {"a.onnx": graph(w=LOSSLESS, p=PRECISE, b=SMALL)}, {})
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
