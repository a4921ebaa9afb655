# SPDX-License-Identifier: Apache-2.0
"""The PyTorch module of a bundle, built from the bundle's own files: its recipe, and the weights that its graphs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece

from attnserve_export.bundles import stored_model
from attnserve_export.recipe import VisionRecipe
from attnserve_export.trained import trained_in_bundle


def module_of_bundle(folder: Path) -> Any:
    """The module in evaluation mode; fails where a parameter was not found."""
    trained = trained_in_bundle(folder)
    if isinstance(trained.recipe, VisionRecipe):
        return stored_model(trained.recipe, trained.weights, len(trained.summary["classes"]))
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=trained.tokenizer)
    return stored_model(trained.recipe, trained.weights, tokenizer.get_piece_size())
