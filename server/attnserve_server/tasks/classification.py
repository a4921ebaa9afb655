# SPDX-License-Identifier: Apache-2.0
"""The classification task: an image file to the model's input; its probabilities to the most probable classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import InvalidRequest
from attnserve_server.passes import PassDone, PassOutcome, PassPayload
from attnserve_server.tasks.answers import BlockAttention, Classification
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import read_picture
from attnserve_server.tasks.interface import AnswerStream, Limits, Model
from attnserve_server.tasks.passes import (
    PassPrepared,
    array_of,
    batch_size_of,
    check_attention,
    manifest_problems,
    outcome_of,
    pixels_of,
    unusable,
)

DEFAULT_TOP_K = 5
"""Classes of an answer if a request sets no number."""
_CHANNEL, _SPATIAL = manifest_pb2.ATTENTION_ROLE_CHANNEL, manifest_pb2.ATTENTION_ROLE_SPATIAL


@dataclass(frozen=True, slots=True)
class AskedClassification:
    """A client's request: an image file, the number of classes (0 for the default), and whether attention is wanted."""

    image: bytes
    top_k: int = 0
    return_attention: bool = False


def classification_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns the problems of a manifest that only classification models can have."""
    return manifest_problems(manifest, ("probabilities",), (_CHANNEL, _SPATIAL))


class ClassificationTask:
    """What requests need of one model."""

    def __init__(self, bundle: Bundle) -> None:
        declared = bundle.manifest.single_pass
        self.sizes, self.num_classes = InputSizes.of(declared.picture), len(declared.labels)


class ClassificationWork:
    """A :class:`~attnserve_server.tasks.interface.Task`: image to its most probable classes."""

    def load(self, bundle: Bundle) -> ClassificationTask:
        """See :class:`Task`."""
        return ClassificationTask(bundle)

    def check(self, asked: AskedClassification, model: Model, limits: Limits) -> int:
        """See :class:`Task`: all checks that do not need the image; returns the number of classes."""
        del limits
        if asked.return_attention:
            check_attention(model, _CHANNEL, _SPATIAL, field="return_attention")
        return wanted_classes(asked.top_k, model)

    def effort(self, asked: AskedClassification) -> None:
        """See :class:`Task`: never inline, because decoding takes milliseconds."""
        return

    def prepare(self, asked: AskedClassification, checked: int, model: Model, limits: Limits) -> PassPrepared:
        """See :class:`Task`."""
        picture = read_picture(asked.image, limits.image, model.task.sizes)
        return PassPrepared(model, picture, checked, [PassPayload({"image": pixels_of(picture)}, asked.return_attention)])

    def render(self, prepared: PassPrepared, answers: Sequence[PassDone]) -> Classification:
        """See :class:`Task`.

        Raises:
            ExecutionFailed: an output is not what the manifest says.
        """
        outcome = outcome_of(answers)
        classes = most_probable(outcome, prepared.model.task.num_classes, prepared.asked)
        attention = _attention(prepared.model, outcome) if prepared.payloads[0].wants_attention else []
        return Classification(classes, attention, batch_size_of(answers))

    def stream(self, prepared: PassPrepared) -> AnswerStream:
        """See :class:`Task`: no method of its service streams."""
        raise NotImplementedError


def wanted_classes(top_k: int, model: Model) -> int:
    """Returns the number of classes of an answer.

    Raises:
        InvalidRequest: the model has fewer than ``top_k``.
    """
    most = model.task.num_classes
    if top_k > most:
        raise InvalidRequest(f"top_k must be at most {most}, the number of classes of {model.id}; it is {top_k}", field="top_k")
    return int(top_k or min(DEFAULT_TOP_K, most))


def most_probable(outcome: PassOutcome, num_classes: int, count: int) -> list[tuple[int, float]]:
    """Returns index and probability of the most probable classes, of equal ones the first.

    Raises:
        ExecutionFailed: there is not one probability for each class.
    """
    probabilities = array_of(outcome, "probabilities", np.float32, 1)
    if probabilities.size != num_classes:
        unusable("probabilities")
    best = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(index), float(probabilities[index])) for index in best]


def _attention(model: Model, outcome: PassOutcome) -> list[BlockAttention]:
    """Returns the attention by block, in the manifest's order."""
    blocks = dict[str, BlockAttention]()
    for each in model.manifest.single_pass.attention:
        block = blocks.setdefault(each.block, BlockAttention(each.block, None, None))
        if each.role == _CHANNEL:
            block.channels = array_of(outcome, each.output, np.float32, 1)
        elif each.role == _SPATIAL:
            block.spatial = array_of(outcome, each.output, np.float32, 2)
    return list(blocks.values())
