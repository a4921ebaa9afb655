# SPDX-License-Identifier: Apache-2.0
"""Golden answers of single-pass models: the manifest's ``GoldenPasses``, asked so that every graph of the variant is run."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.engine.worker.golden import Golden
from attnserve_server.errors import BundleError
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.passes import PassOutcome, PassPayload, PassTensor

MAX_BYTES = 1 << 26
"""Largest tensor of a golden answer; a longer one is refused before it is decompressed."""
Array = npt.NDArray[np.generic]
Expected = Mapping[str, Array]
Tolerances = Mapping[str, manifest_pb2.GoldenOutputTolerance]


def golden_groups(bundle: Bundle) -> list[list[Golden]]:
    """What the kind ``SINGLE_PASS`` names: all inputs in one group, so that a graph with a larger batch runs them together.

    Where the variant has other graphs for the other wish, the first input is asked again with it: with attention if it has all
    inputs that the graph needs, without attention for the outputs that are none.

    Raises:
        BundleError: the file cannot be read, or says nothing of an output of the variant that is served.
    """
    name = bundle.manifest.golden_file
    try:
        answers = json_format.Parse(bundle.read(name), manifest_pb2.GoldenPasses())
        asked = [_Asked(bundle, f"input {number}", each) for number, each in enumerate(answers.passes, 1)]
    except (OSError, ValueError, json_format.ParseError, zlib.error) as error:
        raise BundleError(str(bundle.folder), [f"{name}: {error}"]) from error
    tolerances = {each.output: each for each in answers.tolerances if each.variant == bundle.variant.name}
    missing = sorted({output for each in asked for output in each.expected} - tolerances.keys())
    if not asked or missing:
        what = f"no tolerance of {', '.join(missing)}" if missing else "no golden answers"
        raise BundleError(str(bundle.folder), [f"{name}: {what} for variant {bundle.variant.name}"])
    groups = [[each.golden(tolerances) for each in asked]]
    again = asked[0].otherwise(tolerances) if len({each.gives_attention for each in bundle.variant.passes}) > 1 else None
    return groups if again is None else [*groups, [again]]


class _Asked:
    """An input with its expected outputs.

    Raises:
        ValueError: a tensor is unknown, or is not as the graph declares it.
    """

    def __init__(self, bundle: Bundle, name: str, declared: manifest_pb2.GoldenPass) -> None:
        self._bundle, self._name = bundle, name
        graphs = [each.graph for each in bundle.variant.passes]
        inputs = {tensor.name: tensor for graph in graphs for tensor in graph.inputs}
        outputs = {tensor.name: tensor for graph in graphs for tensor in graph.outputs}
        self._inputs = {each.name: _array(name, each, inputs) for each in declared.inputs}
        self.expected = {each.name: _array(name, each, outputs) for each in declared.outputs}
        if not self.expected:
            raise ValueError(f"{name} has no expected outputs")
        self._attention = {each.output for each in bundle.manifest.single_pass.attention}

    def golden(self, tolerances: Tolerances) -> Golden:
        """The question, with the wish that its outputs need."""
        wants_attention = not self._attention.isdisjoint(self.expected)
        return self._golden(self._name, self.expected, tolerances, wants_attention=wants_attention)

    def otherwise(self, tolerances: Tolerances) -> Golden | None:
        """The question with the other wish, for the outputs that do not depend on it; None if it cannot be asked."""
        wants_attention = self._attention.isdisjoint(self.expected)
        graph = next(each.graph for each in self._bundle.variant.passes if each.gives_attention == wants_attention)
        expected = {name: value for name, value in self.expected.items() if name not in self._attention}
        if not expected or not {tensor.name for tensor in graph.inputs} <= self._inputs.keys():
            return None
        name = f"{self._name}, {'with' if wants_attention else 'without'} attention"
        return self._golden(name, expected, tolerances, wants_attention=wants_attention)

    def _golden(self, name: str, expected: Expected, tolerances: Tolerances, *, wants_attention: bool) -> Golden:
        inputs = {name: PassTensor(value.shape, value.tobytes()) for name, value in self._inputs.items()}
        return Golden(name, PassPayload(inputs, wants_attention), functools.partial(_difference, expected, tolerances))


def _array(where: str, stored: manifest_pb2.GoldenTensor, declared: Mapping[str, manifest_pb2.Tensor]) -> Array:
    """Returns a stored tensor; its bytes are little-endian."""
    if stored.name not in declared:
        raise ValueError(f"{where}: no graph has the tensor {stored.name!r}")
    dtype = NUMPY_TYPES[declared[stored.name].dtype]
    size = math.prod(stored.shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise ValueError(f"{where}, {stored.name}: {size} bytes are more than {MAX_BYTES}")
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(stored.data, size + 1)  # a byte more shows that there are too many
    if len(data) != size or not decompressor.eof:
        more = "at least " if len(data) > size else ""
        raise ValueError(f"{where}, {stored.name}: {more}{len(data)} bytes, not {size}")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(tuple(stored.shape))


def _difference(expected: Expected, tolerances: Tolerances, outcome: PassOutcome) -> str:
    return "; ".join(filter(None, (_of_output(name, value, tolerances[name], outcome) for name, value in expected.items())))


def _of_output(name: str, expected: Array, tolerance: manifest_pb2.GoldenOutputTolerance, outcome: PassOutcome) -> str:
    found = outcome.outputs.get(name)
    if found is None:
        return f"no output {name}"
    if tuple(found.shape) != expected.shape:
        return f"output {name} has the shape {tuple(found.shape)}, expected {expected.shape}"
    values: Any = np.frombuffer(found.data, expected.dtype).reshape(expected.shape).astype(np.float64)
    distances = np.abs(values - expected.astype(np.float64))
    share = float(np.mean(~(distances <= tolerance.difference)))  # NaN is not
    if share <= tolerance.share:
        return ""
    return f"output {name}: {share:.4%} of the elements differ by more than {tolerance.difference:g}, {tolerance.share:.4%} may"
