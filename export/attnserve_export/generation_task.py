# SPDX-License-Identifier: Apache-2.0
"""The parts of a bundle that depend on the generation task."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.generation_card import JUDGE, generation_card
from attnserve_export.recipe import GenerationRecipe

__all__ = ["CIFAR10_TERMS", "JUDGE", "Generation"]

CIFAR10_TERMS = "CIFAR-10 (Krizhevsky 2009): no licence is stated; the images are from the web and belong to their authors."


class Generation:
    """The task of models that generate images of a class; a :class:`~attnserve_export.pass_tasks.PassTask`."""

    description = "Generates small images of a class: airplane, automobile, bird, cat, deer, dog, frog, horse, ship or truck."

    def __init__(self, recipe: GenerationRecipe) -> None:
        self._recipe = recipe

    def describe(self, manifest: manifest_pb2.Manifest, classes: Sequence[str]) -> None:
        """See :class:`PassTask`."""
        manifest.task = manifest_pb2.TASK_GENERATION
        manifest.requires.append("latent_input")
        for name in classes:
            manifest.single_pass.labels.add(name=name)
        name = "CIFAR-10, training split (49,000 of 50,000 images of 32 × 32 pixels)"
        manifest.data.CopyFrom(manifest_pb2.Data(name=name, terms=CIFAR10_TERMS))

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """See :class:`PassTask`."""
        return generation_card(manifest, self._recipe, summary, pictures)
