# SPDX-License-Identifier: Apache-2.0
"""The int8 rewrite: weights folded at load, rows independent of each other, and errors as small as the levels allow."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnserve_export.graphs.int8 import MIN_COLUMNS, WEIGHT_LEVELS, int8_graph
from attnserve_export.graphs.products import GraphIndex
from attnserve_export.graphs.reach import Reaches

WIDTH, HIDDEN, WIDE = 24, 40, MIN_COLUMNS + 6  # none a multiple of the width of a vector instruction
RNG = np.random.default_rng(0)
WEIGHTS = {
    "gamma": RNG.uniform(0.2, 1.5, WIDTH),
    "beta": RNG.normal(0, 0.3, WIDTH),
    "query": RNG.normal(0, 0.3, (WIDTH, HIDDEN)),
    "query_bias": RNG.normal(0, 0.3, HIDDEN),
    "key": RNG.normal(0, 0.3, (WIDTH, HIDDEN)),
    "inner": RNG.normal(0, 0.3, (WIDTH, HIDDEN)),
    "inner_bias": RNG.normal(0, 0.3, HIDDEN),
    "outer": RNG.normal(0, 0.3, (HIDDEN, WIDTH)),
    "outer_bias": RNG.normal(0, 0.3, WIDTH),
    "small": RNG.normal(0, 0.3, (WIDTH, HIDDEN)),
    "wide": RNG.normal(0, 0.3, (WIDE, WIDTH)),
    "wide_bias": RNG.normal(0, 0.3, WIDE),
    "packed": RNG.normal(0, 0.3, (WIDTH, 3 * WIDTH)),
    "packed_bias": RNG.normal(0, 0.3, 3 * WIDTH),
}
NORM = [("LayerNormalization", "x gamma beta", "n", {})]
SHARED = [("MatMul", "n query", "q0", {}), ("Add", "q0 query_bias", "q", {}), ("MatMul", "n key", "k", {})]
FEED_FORWARD = [
    ("MatMul", "n inner", "h0", {}),
    ("Add", "h0 inner_bias", "h1", {}),
    ("Relu", "h1", "h", {}),
    ("MatMul", "h outer", "f0", {}),
    ("Add", "outer_bias f0", "f", {}),
]
VOCABULARY = [("Gather", "n index", "last", {"axis": 1}), ("Gemm", "last wide", "v", {"transB": 1})]
LARGEST = [("Gather", "x index", "last", {"axis": 1}), ("Gemm", "last wide wide_bias", "v", {"transB": 1})]
BOUNDED = [("Tanh", "x", "t", {}), ("Gather", "t index", "last", {"axis": 1}), ("Gemm", "last wide wide_bias", "v", {"transB": 1})]
ATTEND = ("GroupQueryAttention", "p _ _ _ _ first length", "a", {"domain": "com.microsoft", "num_heads": 1, "kv_num_heads": 1})
ATTENTION = [
    *NORM,
    ("MatMul", "n packed", "p0", {}),
    ("Add", "p0 packed_bias", "p", {}),
    ("Shape", "x", "count", {"end": 1}),
    ("ConstantOfShape", "count", "first", {"value": numpy_helper.from_array(np.zeros(1, np.int32))}),
    ATTEND,
    ("Gather", "a index", "last", {"axis": 1}),
    ("Gemm", "last wide wide_bias", "v", {"transB": 1}),
]
FORMS = {
    "behind a norm": (NORM + SHARED, "q k"),
    "behind its ReLU": (NORM + FEED_FORWARD, "f"),
    "vocabulary behind a norm": (NORM + VOCABULARY, "v"),
    "by the largest value": (LARGEST, "v"),
    "between -1 and 1": (BOUNDED, "v"),
    "behind attention": (ATTENTION, "v"),
}
SIZES = {"a": WIDTH, "p": 3 * WIDTH, "q": HIDDEN, "k": HIDDEN, "f": WIDTH, "v": WIDE, "n": WIDTH, "s": HIDDEN}


def graph(nodes: list[tuple[str, str, str, dict[str, Any]]], outputs: str) -> onnx.ModelProto:
    """Nodes of rows x (row, 1, width); an underscore is an input that is left out."""
    made = [
        helper.make_node(op, [each.strip("_") for each in inputs.split()], [output], **attributes)
        for op, inputs, output, attributes in nodes
    ]
    read = {name for node in made for name in node.input}
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in WEIGHTS.items() if name in read]
    if "index" in read:
        initializers.append(numpy_helper.from_array(np.int64(0), "index"))
    if "length" in read:
        initializers.append(numpy_helper.from_array(np.ones(1, np.int32), "length"))
    shapes = {name: ["row", SIZES[name]] if name == "v" else ["row", 1, SIZES[name]] for name in outputs.split()}
    model = helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["row", 1, WIDTH])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)],
    )
    model.ir_version = 10
    return model


def rewritten(form: str) -> onnx.ModelProto:
    made = int8_graph(graph(*FORMS[form]))
    assert made is not None
    return made


def session_of(model: onnx.ModelProto, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, x: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def rows(count: int, seed: int = 1) -> np.ndarray:
    """Rows of very different sizes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 1, WIDTH)) * np.exp(rng.uniform(-3, 3, (count, 1, 1)))).astype(np.float32)


def assert_rows_are_alone(model: onnx.ModelProto) -> None:
    """Each row's outputs are the same bits alone, among up to 32 others, and in any order."""
    session, x = session_of(model), rows(33)
    alone = [np.concatenate(each) for each in zip(*(run(session, x[i : i + 1]) for i in range(33)), strict=True)]
    for count in range(1, 34):
        for one, together in zip(alone, run(session, x[:count]), strict=True):
            assert np.array_equal(one[:count], together), f"a row of {count} depends on the others"
    order = np.random.default_rng(2).permutation(33)
    for one, shuffled in zip(alone, run(session, x[order]), strict=True):
        assert np.array_equal(one[order], shuffled), "a row depends on its place"


@pytest.mark.parametrize("form", FORMS)
def test_no_row_depends_on_another(form: str) -> None:
    assert_rows_are_alone(rewritten(form))


def test_one_scale_for_all_rows_is_seen() -> None:
    """A planted fault: the largest absolute value of the whole batch."""
    model = rewritten("by the largest value")
    (largest,) = [node for node in model.graph.node if node.op_type == "ReduceMax"]
    del largest.input[1:]
    with pytest.raises(AssertionError, match="depends on the others"):
        assert_rows_are_alone(model)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_quantised_at_load(form: str, tmp_path: Path) -> None:
    session_of(rewritten(form), tmp_path / "optimized.onnx")
    optimized = onnx.load(tmp_path / "optimized.onnx")
    ops = Counter(node.op_type for node in optimized.graph.node)
    assert not {"Round", "Transpose", "ReduceL2", "MatMul", "Gemm"} & set(ops), ops
    assert ops["Cast"] == ops["Relu"] == 0
    assert (ops["Abs"], ops["ReduceMax"]) == ((1, 1) if form == "by the largest value" else (0, 0))
    matrices = {each.name: numpy_helper.to_array(each) for each in optimized.graph.initializer}
    products = [node for node in optimized.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == sum(op in ("MatMul", "Gemm") for op, *_ in FORMS[form][0])
    for product in products:
        matrix = matrices[product.input[1]]
        assert matrix.dtype == np.int8
        assert np.abs(matrix.astype(int)).max(0).tolist() == [WEIGHT_LEVELS] * matrix.shape[1]


def test_pairs_of_products_fit_sixteen_bits() -> None:
    """x86 without VNNI adds products with saturation; a row and a matrix of largest values show whether it occurs."""
    assert np.iinfo(np.int16).max >= 2 * 255 * WEIGHT_LEVELS
    model = rewritten("by the largest value")
    for each in model.graph.initializer:
        if each.name == "wide":
            each.CopyFrom(numpy_helper.from_array(np.full((WIDE, WIDTH), 0.5, np.float32), "wide"))
    session = session_of(model)
    for value in (3.0, -3.0):
        (found,) = run(session, np.full((5, 1, WIDTH), value, np.float32))
        expected = value * 0.5 * WIDTH + WEIGHTS["wide_bias"].astype(np.float32)
        assert found == pytest.approx(np.tile(expected, (5, 1)), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_errors_are_those_of_the_levels(form: str) -> None:
    x = rows(200)
    for ours, theirs in zip(
        run(session_of(rewritten(form)), x), run(session_of(graph(*FORMS[form])), x), strict=True
    ):  # (row, ..., column)
        size = (
            theirs.std(tuple(range(theirs.ndim - 1)), keepdims=True)
            if form == "behind a norm"
            else np.abs(theirs).max(-1, keepdims=True)
        )
        error = np.abs(ours - theirs) / size
        assert np.sqrt((error**2).mean()) < 0.03
        assert error.max() < 0.2


def test_nothing_is_cut_off_behind_a_relu() -> None:
    """Rows that reach a hidden column's bound: along its weights."""
    made, plain = session_of(rewritten("behind its ReLU")), session_of(graph(*FORMS["behind its ReLU"]))
    along = (WEIGHTS["gamma"][:, None] * WEIGHTS["inner"]).T
    x = (along - along.mean(1, keepdims=True))[:, None].astype(np.float32) * 50
    ours, theirs = run(made, x)[0], run(plain, x)[0]
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


def test_zeros_stay_numbers() -> None:
    model = graph(*FORMS["by the largest value"])
    for each in model.graph.initializer:
        if each.name == "wide":
            matrix = WEIGHTS["wide"].astype(np.float32).copy()
            matrix[7] = 0.0
            each.CopyFrom(numpy_helper.from_array(matrix, "wide"))
    made = int8_graph(model)
    assert made is not None
    x = rows(3)
    x[1] = 0.0
    (found,) = run(session_of(made), x)
    bias = WEIGHTS["wide_bias"].astype(np.float32)
    assert np.array_equal(found[1], bias)
    assert np.array_equal(found[:, 7], np.full(3, bias[7]))


def test_products_of_one_input_share_its_quantisation() -> None:
    ops = Counter(node.op_type for node in rewritten("behind a norm").graph.node)
    assert (ops["QuantizeLinear"], ops["MatMulIntegerToFloat"]) == (1, 2)


def test_a_norm_that_others_read_stays_whole() -> None:
    nodes = [*NORM, *SHARED]
    assert int8_graph(graph(nodes, "q k n")) is None
    made = int8_graph(graph([*NORM, *VOCABULARY, ("Add", "n outer_bias", "f", {})], "v f"))
    assert made is not None
    assert {node.op_type for node in made.graph.node} >= {"ReduceMax"}, "by the largest value, not behind the norm"
    x = rows(9)
    plain = session_of(graph([*NORM, *VOCABULARY, ("Add", "n outer_bias", "f", {})], "v f"))
    assert np.array_equal(run(session_of(made), x)[1], run(plain, x)[1])


BETWEEN = {
    "tanh": ([("Tanh", "x", "t", {})], True),
    "gate times tanh": ([("Sigmoid", "x", "g", {}), ("Tanh", "x", "u", {}), ("Mul", "g u", "t", {})], True),
    "gate times anything": ([("Sigmoid", "x", "g", {}), ("Mul", "g x", "t", {})], False),
    "moved": ([("Tanh", "x", "u", {}), ("Concat", "u u", "t", {"axis": 1})], True),
    "moved, partly": ([("Tanh", "x", "u", {}), ("Concat", "u x", "t", {"axis": 1})], False),
    "a mean": ([("Softmax", "x", "w", {}), ("Tanh", "x", "u", {}), ("MatMul", "w u", "t", {})], True),
    "a sum": ([("Sigmoid", "x", "w", {}), ("Tanh", "x", "u", {}), ("MatMul", "w u", "t", {})], False),
    "a mean of anything": ([("Softmax", "x", "w", {}), ("MatMul", "w x", "t", {})], False),
    "a mean along another axis": ([("Softmax", "x", "w", {"axis": 1}), ("Tanh", "x", "u", {}), ("MatMul", "w u", "t", {})], False),
    "anything": ([("Abs", "x", "t", {})], False),
}  # fmt: skip


def reaches(nodes: list[tuple[str, str, str, dict[str, Any]]], outputs: str, **known: float) -> Reaches:
    return Reaches(GraphIndex(graph(nodes, outputs).graph), lambda name: known.get(name, math.inf))


@pytest.mark.parametrize("form", BETWEEN)
def test_values_between_minus_one_and_one_are_recognised(form: str) -> None:
    nodes, expected = BETWEEN[form]
    found = reaches([*nodes, ("Identity", "t", "n", {})], "n").of("t")
    assert found == (1.0 if expected else math.inf)


def test_bounds_of_inputs_are_those_that_are_given() -> None:
    assert reaches([("Identity", "x", "n", {})], "n", x=2.5).of("n") == 2.5
    assert reaches([("Mul", "x x", "n", {})], "n", x=3.0).of("n") == 9.0


@pytest.mark.parametrize("node", [("Gather", "query index", "n", {"axis": 1}), ("Concat", "x query", "n", {"axis": 1})])
def test_weights_have_no_bound(node: tuple[str, str, str, dict[str, Any]]) -> None:
    """With the largest value of a table as its scale, a row of small values would have few levels."""
    assert reaches([node], "n", x=0.1).of("n") == math.inf


@pytest.mark.parametrize(("attributes", "expected"), [({}, 0.0), ({"value": numpy_helper.from_array(np.float32([-3.0]))}, 3.0)])
def test_bound_of_a_constant_that_is_repeated(attributes: dict[str, Any], expected: float) -> None:
    nodes = [("Shape", "x", "count", {"end": 1}), ("ConstantOfShape", "count", "c", attributes), ("Expand", "c count", "n", {})]
    assert reaches(nodes, "n").of("n") == expected


def test_bound_of_an_attention_is_that_of_its_values() -> None:
    """The rows that come closest to a column's bound are those along its weights."""
    nodes = ATTENTION[:6]
    weights = WEIGHTS["gamma"][:, None] * WEIGHTS["packed"][:, 2 * WIDTH :]
    shift = WEIGHTS["beta"] @ WEIGHTS["packed"][:, 2 * WIDTH :] + WEIGHTS["packed_bias"][2 * WIDTH :]
    expected = (np.sqrt(WIDTH) * np.linalg.norm(weights, axis=0) + np.abs(shift)).max()
    bound = reaches(nodes, "a").of("a")
    assert bound == pytest.approx(expected, rel=1e-6)
    column = int((np.sqrt(WIDTH) * np.linalg.norm(weights, axis=0) + np.abs(shift)).argmax())
    x = np.sign(shift[column]) * 50 * weights[:, column][None, None].astype(np.float32)
    (attended,) = run(session_of(graph(nodes, "a")), (x - x.mean()).astype(np.float32))
    assert 0.9 * bound < np.abs(attended).max() <= bound


def test_bound_of_old_values_counts_too() -> None:
    cache = ("GroupQueryAttention", "p _ _ x x first length", "a", ATTEND[3])
    nodes = [*ATTENTION[:5], cache]
    new = reaches(ATTENTION[:6], "a").of("a")
    assert reaches(nodes, "a", x=new + 1).of("a") == new + 1
    assert reaches(nodes, "a", x=new / 2).of("a") == new
    assert reaches(nodes, "a").of("a") == math.inf


def test_bound_of_values_of_their_own() -> None:
    for value, expected in (("t", 1.0), ("x", math.inf)):
        nodes = [("Tanh", "x", "t", {}), ("GroupQueryAttention", f"x x {value} _ _ first length", "a", ATTEND[3])]
        assert reaches(nodes, "a").of("a") == expected


def test_bound_of_values_that_several_heads_share() -> None:
    shared = {"domain": "com.microsoft", "num_heads": 4, "kv_num_heads": 1}  # of 12 values each
    model = graph([*ATTENTION[:5], (*ATTEND[:3], shared)], "a")
    (node,) = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    node.output.extend(["keys", "values", "scores"])
    found = Reaches(GraphIndex(model.graph), lambda name: math.inf)
    weights = (WEIGHTS["gamma"][:, None] * WEIGHTS["packed"])[:, -12:]
    shift = (WEIGHTS["beta"] @ WEIGHTS["packed"] + WEIGHTS["packed_bias"])[-12:]
    expected = (np.sqrt(WIDTH) * np.linalg.norm(weights, axis=0) + np.abs(shift)).max()
    assert found.of("a") == found.of("values") == pytest.approx(expected, rel=1e-6)
    assert found.of("keys") == found.of("scores") == math.inf


@pytest.mark.parametrize(("axis", "num_parts", "is_of_columns"), [(-1, 3, True), (2, 3, True), (1, 3, False), (-1, 5, False)])
def test_bound_of_a_part_of_the_columns_is_its_own(axis: int, num_parts: int, is_of_columns: bool) -> None:
    split = helper.make_node("Split", ["p"], ["s", "t", "u"], axis=axis, num_outputs=num_parts)
    model = graph(ATTENTION[:3], "p")
    model.graph.node.append(split)
    model.graph.value_info.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["row", 1, 3 * WIDTH]))
    found = Reaches(GraphIndex(model.graph), lambda name: math.inf)
    parts = [found.of(name) for name in "stu"]
    assert max(parts) == pytest.approx(found.of("p"))
    assert (len(set(parts)) == 3) is is_of_columns


def test_products_of_constants_are_left_to_the_loading() -> None:
    """A table: as an int8 product it would be computed at every step."""
    model = graph([("MatMul", "table wide_t", "t", {}), ("Gather", "t index", "s", {})], "s")
    model.graph.initializer.append(numpy_helper.from_array(RNG.normal(0, 1, (50, WIDTH)).astype(np.float32), "table"))
    model.graph.initializer.append(numpy_helper.from_array(RNG.normal(0, 1, (WIDTH, WIDE)).astype(np.float32), "wide_t"))
    assert int8_graph(model) is None
    scaled = graph([("Mul", "gamma beta", "c", {}), ("MatMul", "c wide_t", "s", {})], "s")
    scaled.graph.initializer.append(numpy_helper.from_array(RNG.normal(0, 1, (WIDTH, WIDE)).astype(np.float32), "wide_t"))
    assert int8_graph(scaled) is None


def test_small_products_of_what_is_not_scaled_stay() -> None:
    model = graph([("MatMul", "x small", "s", {})], "s")
    before = model.SerializeToString()
    assert int8_graph(model) is None
    assert model.SerializeToString() == before
