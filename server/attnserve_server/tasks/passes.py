# SPDX-License-Identifier: Apache-2.0
"""What the tasks of single-pass models share: a prepared picture, attention outputs by role, and tensors as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2
from attnserve_server.errors import ExecutionFailed, InvalidRequest
from attnserve_server.passes import PassDone, PassOutcome, PassPayload, PassTensor
from attnserve_server.tasks.images import Picture
from attnserve_server.tasks.interface import Model


@dataclass(frozen=True, slots=True)
class PassPrepared:
    """A prepared request: the model, the picture, what of the request shapes the answer, and its only payload."""

    model: Model
    picture: Picture
    asked: Any
    payloads: Sequence[PassPayload]


def manifest_problems(manifest: manifest_pb2.Manifest, outputs: Sequence[str], roles: Sequence[int]) -> list[str]:
    """Returns the problems of a single-pass model's manifest that its task has: outputs and roles.

    Args:
        manifest: the manifest.
        outputs: outputs that every graph must have.
        roles: roles that the task's attention may have.
    """
    declared, problems = manifest.single_pass, list[str]()
    for variant in manifest.variants:
        for number, each in enumerate(variant.passes, 1):
            given = {tensor.name for tensor in each.graph.outputs}
            problems += [f"variant {variant.name}, graph {number}: no output {name}" for name in outputs if name not in given]
    problems += [
        f"single_pass.attention: {each.output} has the role {each.role}" for each in declared.attention if each.role not in roles
    ]
    return problems


def pixels_of(picture: Picture) -> PassTensor:
    """Returns the input ``image``: (height, width, 3)."""
    width, height = picture.fitted.size
    return PassTensor((height, width, 3), picture.pixels)


def outputs_of(model: Model, role: manifest_pb2.AttentionRole) -> list[manifest_pb2.PassAttention]:
    """Returns the model's attention outputs of a role, in the manifest's order."""
    return [each for each in model.manifest.single_pass.attention if each.role == role]


def check_attention(model: Model, *roles: manifest_pb2.AttentionRole, field: str) -> None:
    """Checks that the served variant returns attention of one of these roles.

    Raises:
        InvalidRequest: names ``field``.
    """
    if not (model.gives_attention and any(outputs_of(model, role) for role in roles)):
        raise InvalidRequest(
            f"{field} needs attention, which {model.id} does not give (variant {model.variant}); leave it out", field=field
        )


def num_queries(variant: manifest_pb2.Variant, most: int) -> int:
    """Returns the places for queries in each request of a variant, at most ``most``; 0 if no graph has them."""
    declared = [tensor.axes[1] for each in variant.passes for tensor in each.graph.inputs if tensor.name == "query"]
    return min([most, *(int(axis) for axis in declared if axis.isdecimal())]) if declared else 0


def integers(values: Sequence[int]) -> PassTensor:
    """Returns an input of 64-bit integers."""
    return PassTensor((len(values),), np.array(values, np.int64).tobytes())


def outcome_of(answers: Sequence[PassDone]) -> PassOutcome:
    """Returns the outcome of a request with one payload."""
    (answer,) = answers
    return answer.outcome


def batch_size_of(answers: Sequence[PassDone]) -> int:
    """Returns the requests of the batch of a request with one payload; 0 if the cache answered, without a run."""
    (answer,) = answers
    return answer.outcome.batch_size if answer.num_steps else 0


def array_of(outcome: PassOutcome, name: str, dtype: npt.DTypeLike, num_axes: int) -> npt.NDArray[Any]:
    """Returns an output as an array.

    Raises:
        ExecutionFailed: it is absent, or has another number of axes or bytes.
    """
    tensor = outcome.outputs.get(name)
    if tensor is None or len(tensor.shape) != num_axes:
        unusable(name)
    found = np.frombuffer(tensor.data, dtype) if len(tensor.data) % np.dtype(dtype).itemsize == 0 else np.empty(0)
    return found.reshape(tensor.shape) if found.size == np.prod(tensor.shape) else unusable(name)


def unusable(name: str) -> NoReturn:
    """Raises the error of an output that the model should not have given."""
    raise ExecutionFailed(f"the model gave an unusable output ({name})")
