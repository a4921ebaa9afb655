# SPDX-License-Identifier: Apache-2.0
"""Weights of 8 bits: rounded, recognised by their values, and stored so that ONNX Runtime reads the same values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from attnserve_export import eight_bits
from attnserve_export.bundle_writer import WEIGHTS_FILE, WeightStore

SHAPES = [(7, 33), (64, 3, 3, 3), (96, 1, 5, 5), (40, 24, 1, 1)]


def weights_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * rng.uniform(1e-4, 3.0, (shape[0],) + (1,) * (len(shape) - 1))).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_is_found_again(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        weights = weights_of(shape, seed)
        rounded = eight_bits.rounded(weights)
        found = eight_bits.split(rounded)
        assert found is not None
        integers, scales = found
        assert integers.dtype == np.int8
        assert np.array_equal(integers * scales, rounded)
        most = np.abs(weights).reshape(len(weights), -1).max(1)
        error = np.abs(weights - rounded).reshape(len(weights), -1).max(1)
        assert (error <= 0.501 * most / eight_bits.LEVELS).all()
        assert np.array_equal(eight_bits.rounded(rounded), rounded)


def test_a_transposed_matrix_is_found_too() -> None:
    rounded = eight_bits.rounded(weights_of((31, 17)))
    found = eight_bits.split(np.ascontiguousarray(rounded.T))
    assert found is not None
    assert found[1].shape == (1, 31)
    assert np.array_equal(found[0] * found[1], rounded.T)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_other_weights_are_not_taken_for_such(seed: int) -> None:
    assert eight_bits.split(weights_of((5, 40), seed)) is None
    assert eight_bits.split(weights_of((5, 40), seed).astype(np.float16).astype(np.float32)) is None


def test_rows_of_zeros_and_vectors() -> None:
    weights = weights_of((4, 9))
    weights[2] = 0
    found = eight_bits.split(eight_bits.rounded(weights))
    assert found is not None
    assert not found[0][2].any()
    assert eight_bits.split(weights_of((300,))) is None


@pytest.mark.parametrize("shape", [(64, 3, 3, 3), (48, 60)])
def test_onnxruntime_reads_the_very_same_values(shape: tuple[int, ...], tmp_path: Path) -> None:
    rounded = eight_bits.rounded(weights_of(shape))
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, list(shape))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["out"])], "g", [], [output], [numpy_helper.from_array(rounded, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    store = WeightStore()
    store.externalize(model)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(store.data))
    assert len(store.data) <= rounded.size + 4 * shape[0] + 64
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {})[0], rounded)  # pyright: ignore[reportArgumentType]
