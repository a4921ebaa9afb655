# SPDX-License-Identifier: Apache-2.0
"""Writes a bundle: the graphs, their shared weights in ``weights.bin``, the other files, and the manifest that lists them all.

A float32 weight that float16 represents exactly is stored in 16 bits, followed by a Cast node. A weight that is an 8-bit integer
times a scale of its channel is stored as integers and scales (``eight_bits.py``), followed by a Cast and a Mul node. ONNX Runtime
folds these nodes when it loads the graph. Equal tensors of all graphs are stored once, so a further graph, or the fp16 variant,
adds only its structure.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf import json_format
from onnx import TensorProto, numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export import eight_bits

WEIGHTS_FILE = "weights.bin"
SCALES = ".scales"
PACKED = (".half", ".integers", ".unscaled", SCALES)
"""Name suffixes of the stored values from which a graph computes a weight."""
_INLINE_BYTES = 256
_ALIGNMENT = 64
_PRODUCERS = ("torch", "onnx", "onnxscript", "onnxruntime", "sentencepiece")


class WeightStore:
    """The content of ``weights.bin``: each distinct tensor once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[bytes, int] = {}

    def place(self, raw: bytes) -> int:
        """Returns the offset of ``raw``, which is appended if it is new."""
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            self.data.extend(b"\0" * (-len(self.data) % _ALIGNMENT))
            self._places[key] = len(self.data)
            self.data.extend(raw)
        return self._places[key]

    def externalize(self, model: onnx.ModelProto) -> None:
        """Moves the large initializers of ``model`` to this store, in fewer bits where that is exact."""
        folded: list[onnx.NodeProto] = []
        for initializer in list(model.graph.initializer):
            array = numpy_helper.to_array(initializer)
            if array.nbytes < _INLINE_BYTES:
                continue
            quantised = eight_bits.split(array) if array.dtype == np.float32 else None
            if quantised is not None:
                folded += self._store_quantised(model, initializer, quantised)
                continue
            if array.dtype == np.float32:
                with np.errstate(over="ignore"):  # a value out of range becomes infinite, so the weight stays in 32 bits
                    half = array.astype(np.float16)
                if np.array_equal(half.astype(np.float32), array):
                    name = initializer.name
                    initializer.name, initializer.data_type, array = f"{name}.half", TensorProto.FLOAT16, half
                    folded.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
            self._store(initializer, array)
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*folded, *nodes])

    def _store_quantised(
        self, model: onnx.ModelProto, initializer: onnx.TensorProto, quantised: tuple[eight_bits.Integers, eight_bits.Scales]
    ) -> list[onnx.NodeProto]:
        """Replaces an initializer by integers and scales; returns the nodes that compute its value from them."""
        name, (integers, scales) = initializer.name, quantised
        initializer.name, initializer.data_type = f"{name}.integers", TensorProto.INT8
        self._store(initializer, integers)
        scale = numpy_helper.from_array(scales, f"{name}{SCALES}")
        if scales.nbytes >= _INLINE_BYTES:
            self._store(scale, scales)
        model.graph.initializer.append(scale)
        return [
            onnx.helper.make_node("Cast", [f"{name}.integers"], [f"{name}.unscaled"], to=TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [f"{name}.unscaled", f"{name}{SCALES}"], [name]),
        ]

    def _store(self, initializer: onnx.TensorProto, array: npt.NDArray[Any]) -> None:
        raw = np.ascontiguousarray(array).tobytes()
        offset = self.place(raw)
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            initializer.ClearField(field)
        initializer.data_location = TensorProto.EXTERNAL
        del initializer.external_data[:]
        for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(len(raw)))):
            initializer.external_data.add(key=key, value=value)


def strip_notes(model: onnx.ModelProto) -> None:
    """Removes the exporter's debug information (types of inner values, stack traces): half of a small graph's size."""
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for initializer in model.graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]


def write_bundle(
    folder: Path, manifest: manifest_pb2.Manifest, graphs: dict[str, onnx.ModelProto], extra_files: dict[str, bytes]
) -> manifest_pb2.Manifest:
    """Writes a bundle to ``folder``, replacing its content.

    Args:
        folder: usually ``<repository>/<model id>/<version>``.
        manifest: complete except for files and producers.
        graphs: models by file name, as named in the manifest's variants.
        extra_files: tokenizer, card, licence note.

    Returns:
        The manifest as written.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    store = WeightStore()
    contents = dict(extra_files)
    for name, model in graphs.items():
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        strip_notes(copy)
        store.externalize(copy)
        contents[name] = copy.SerializeToString(deterministic=True)
    contents[WEIGHTS_FILE] = bytes(store.data)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: manifest_pb2.Manifest) -> manifest_pb2.Manifest:
    """Writes ``manifest.json`` with the sizes and SHA-256 digests of the files that are in the folder now."""
    full = manifest_pb2.Manifest()
    full.CopyFrom(manifest)
    full.ClearField("files")
    for path in sorted(folder.iterdir()):
        if path.name != "manifest.json":
            data = path.read_bytes()
            full.files.add(name=path.name, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
    if not full.producers:
        for name in _PRODUCERS:
            full.producers.add(name=name, version=importlib.metadata.version(name))
    text = json_format.MessageToJson(full, preserving_proto_field_name=True, indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return full


def read_manifest(folder: Path) -> manifest_pb2.Manifest:
    """Reads the manifest of a written bundle."""
    return json_format.Parse((folder / "manifest.json").read_text(encoding="utf-8"), manifest_pb2.Manifest())
