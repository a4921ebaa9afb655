# SPDX-License-Identifier: Apache-2.0
"""The bounds of a model's states, which the int8 variant uses: proven from the graphs that write them, or none."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export.int8_variant import reach_of_states

ATTENTION = "GroupQueryAttention"


def graph(inputs: list[str], outputs: list[str], nodes: list[tuple[str, str, str]]) -> onnx.GraphProto:
    values = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["row", 4]) for name in names] for names in (inputs, outputs)]
    made = [helper.make_node(op, read.split(), written.split()) for op, read, written in nodes]
    two = numpy_helper.from_array(np.float32([2.0]))
    made.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["two"], value=two))
    return helper.make_graph(made, "g", *values, [numpy_helper.from_array(np.array([4]), "shape")])


def bound_of(step: list[tuple[str, str, str]], *, encode_output: str = "made", is_within_one: bool = False) -> float:
    """The bound of a state that starts as tanh(x), or empty, after steps that write it from ``state`` and ``x``."""
    state = manifest_pb2.State(name="state", encode_output=encode_output, step_output="next")
    encode = graph(["x"], ["made"], [("Tanh", "x", "made")])
    found = reach_of_states(
        manifest_pb2.Manifest(states=[state]),
        [encode, graph(["x", "state"], ["next"], step)],
        lambda name: is_within_one and name in ("state", "next"),
    )
    return found("state")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ([("Identity", "state", "next")], 1.0),
        ([("Tanh", "x", "next")], 1.0),
        ([("Sigmoid", "x", "gate"), ("Mul", "gate state", "next")], 1.0),
        ([("Sigmoid", "x", "gate"), ("Mul", "gate two", "next")], 2.0),
        ([("Tanh", "x", "new"), (ATTENTION, "x x new state state x x", "a k next")], 1.0),
        ([(ATTENTION, "x x two state state x x", "a k next")], 2.0),
        ([(ATTENTION, "x x x state state x x", "a k next")], math.inf),
        ([("Mul", "state two", "next")], math.inf),
        ([("Add", "state x", "next")], math.inf),
        ([("Identity", "x", "next")], math.inf),
    ],
    ids=[
        "kept",
        "replaced",
        "shrunk",
        "replaced by more",
        "appended to",
        "appended to by more",
        "appended to by anything",
        "doubled",
        "added to",
        "anything",
    ],
)
def test_bound_holds_after_any_number_of_steps(step: list[tuple[str, str, str]], expected: float) -> None:
    assert bound_of(step) == expected


def test_state_that_is_empty_at_first_is_bounded_by_what_is_written() -> None:
    assert bound_of([("Tanh", "x", "half"), ("Mul", "half two", "next")], encode_output="") == 2.0
    assert bound_of([("Mul", "state two", "next")], encode_output="") == 0.0


def test_bound_that_an_architecture_declares_needs_no_proof() -> None:
    assert bound_of([("Add", "state x", "next")], is_within_one=True) == 1.0


@pytest.mark.parametrize("grows", [("Add", "a x", "next_a"), ("Mul", "a two", "next_a")])
def test_one_state_without_a_bound_leaves_those_that_do_not_depend_on_it(grows: tuple[str, str, str]) -> None:
    states = [manifest_pb2.State(name=name, encode_output="made", step_output=f"next_{name}") for name in "abc"]
    encode = graph(["x"], ["made"], [("Tanh", "x", "made")])
    nodes = [grows, ("Identity", "b", "next_b"), ("Mul", "a b", "next_c")]
    step = graph(["x", "a", "b", "c"], ["next_a", "next_b", "next_c"], nodes)
    found = reach_of_states(manifest_pb2.Manifest(states=states), [encode, step], lambda name: False)
    assert (found("a"), found("b"), found("c")) == (math.inf, 1.0, math.inf)
