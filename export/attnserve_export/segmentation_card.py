# SPDX-License-Identifier: Apache-2.0
"""The model card of a segmentation model."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.recipe import SegmentationRecipe


def segmentation_card(
    manifest: manifest_pb2.Manifest, recipe: SegmentationRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    del recipe, summary, pictures
    return f"# {manifest.model_id}, version {manifest.version}\n\n{manifest.description}\n\n{manifest.data.terms}\n"
