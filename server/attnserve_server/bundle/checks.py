# SPDX-License-Identifier: Apache-2.0
"""Checks that a manifest declares all that its kind of engine needs. Uses protobuf, and no files or graphs."""

from __future__ import annotations

import math

from attnserve.v1 import manifest_pb2

STEP_INPUTS = {"token", "position", "source_length", "request_of_row", "rows_of_request", "place_of_row"}
STEP_SCORES = {"logits", "log_probs", "top_log_probs"}
_INDEX_INPUTS = {"request_of_row", "rows_of_request", "place_of_row"}


def named_files(manifest: manifest_pb2.Manifest) -> set[str]:
    """Returns the files that a manifest names outside its list of files; an empty name is a missing one."""
    vocabulary = {manifest.vocabulary.sentencepiece_file}
    if manifest.HasField("single_pass"):  # it may have no text
        vocabulary -= {""}
    return graph_files(manifest) | vocabulary | ({manifest.golden_file} - {""})


def graph_files(manifest: manifest_pb2.Manifest) -> set[str]:
    """Returns the ONNX files of all variants; an empty name is a missing one."""
    named: set[str] = set()
    for variant in manifest.variants:
        named |= {each.graph.file for each in variant.passes}
        if variant.steps or variant.encode.file or not variant.passes:
            named |= {variant.encode.file, *(step.graph.file for step in variant.steps)}
    return named


def iterative_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns all problems of an iterative model's manifest."""
    problems = [*_state_problems(manifest), *_attention_problems(manifest.attention)]
    if manifest.HasField("single_pass") or any(each.passes for each in manifest.variants):
        problems.append("single_pass: models of this task decode step by step")
    for each in manifest.variants:
        problems += _variant_problems(manifest, each)
    if "" in named_files(manifest):
        problems.append("(empty name) is named but not listed")
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
        return ["attention: num_layers and num_heads must both be set, or both be 0"]
    return [
        f"attention: mean_{name}s has {index}, but num_{name}s is {size}"
        for name, (size, indices) in named.items()
        for index in indices
        if index >= size
    ]


def _output_problems(attention: manifest_pb2.AttentionOutput, graph: manifest_pb2.Graph) -> list[str]:
    sizes = [str(size) for size in (attention.num_layers, attention.num_heads) if size]
    for tensor in graph.outputs:
        if tensor.name == attention.output:
            inner = list(tensor.axes[1:-1])
            return [] if inner == sizes else [f"attention has layers and heads {inner}, the manifest declares {sizes}"]
    return ["no attention output"]


def _most_rows(step: manifest_pb2.StepGraph) -> float:
    """Maximum rows of one request; infinity for no limit."""
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
        if step.max_rows_of_request != 1 and not inputs & _INDEX_INPUTS:
            problems.append(f"{where}, {step.graph.file}: several rows per request, but no input maps rows to requests")
    return problems
