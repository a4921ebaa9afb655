# SPDX-License-Identifier: Apache-2.0
"""The parts of a bundle that depend on its task: limits, vocabulary, data, inputs of the parity check, and the card."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece

from attnserve.v1 import manifest_pb2
from attnserve_export.caption_card import caption_card
from attnserve_export.golden_sources import SENTENCES, made_up_images
from attnserve_export.layers import efficientnet
from attnserve_export.model_card import model_card
from attnserve_export.models.show_attend_tell import NUM_CELLS
from attnserve_export.parity_sources import ImageSources, Sources, TextSources
from attnserve_export.recipe import CaptionRecipe, Recipe, SequenceRecipe
from attnserve_export.registry import MAX_TOKENS
from attnserve_export.training.captions.data import hold_back, read_pixels
from attnserve_export.training.data import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID, read_pairs

MAX_BEAM_SIZE = 8
MAX_CAPTION_TOKENS = 40
NUM_PARITY_SENTENCES = 200
NUM_PARITY_PHOTOS = 100
NUM_MADE_UP_IMAGES = 100


class Task(Protocol):
    """The parts of a bundle that depend on one task."""

    description: str
    """One sentence, for lists of models."""

    def describe(self, manifest: manifest_pb2.Manifest, vocab_size: int) -> None:
        """Sets task, limits, vocabulary and data of the manifest."""
        ...

    def parity_sources(self, data_root: Path, tokenizer: sentencepiece.SentencePieceProcessor) -> Sources:
        """Returns the inputs of the parity check, which were not used for training.

        Raises:
            FileNotFoundError: the data sets are missing.
        """
        ...

    def golden_sources(self, tokenizer: sentencepiece.SentencePieceProcessor) -> Sources:
        """What golden answers are chosen from; none where nothing was made up for the language."""
        ...

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """Returns the model card; ``pictures``: file names in the repository."""
        ...


class Translation:
    """The task of translation models."""

    description = "Translates image descriptions from English to German."

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def describe(self, manifest: manifest_pb2.Manifest, vocab_size: int) -> None:
        """See :class:`Task`."""
        manifest.task = manifest_pb2.TASK_TRANSLATION
        limits = {"max_source_tokens": MAX_TOKENS - 1, "max_target_tokens": MAX_TOKENS, "max_beam_size": MAX_BEAM_SIZE}
        manifest.limits.CopyFrom(manifest_pb2.Limits(**limits))
        data = self._recipe.data
        manifest.vocabulary.CopyFrom(_vocabulary(vocab_size, data.target_language, source_language=data.source_language))
        terms = "Multi30K (Elliott et al. 2016): for non-commercial research and education; no open licence is stated."
        manifest.data.CopyFrom(manifest_pb2.Data(name="Multi30K task 1, training split (29,000 pairs)", terms=terms))

    def parity_sources(self, data_root: Path, tokenizer: sentencepiece.SentencePieceProcessor) -> Sources:
        """Returns sentences of val."""
        val = read_pairs(data_root, "val", self._recipe.data.source_language, self._recipe.data.target_language)
        texts = [[*tokenizer.encode(source), END_ID] for source, _ in val[:NUM_PARITY_SENTENCES]]
        return TextSources(texts, tokenizer.get_piece_size())

    def golden_sources(self, tokenizer: sentencepiece.SentencePieceProcessor) -> Sources:
        """Sentences of the source language."""
        sentences = SENTENCES.get(self._recipe.data.source_language, ())
        return TextSources([[*tokenizer.encode(text), END_ID] for text in sentences], tokenizer.get_piece_size())

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """See :class:`Task`."""
        return model_card(manifest, self._recipe, summary, pictures)


class Caption:
    """The task of captioning models."""

    description = "Describes photos in one English sentence."

    def __init__(self, recipe: CaptionRecipe) -> None:
        self._recipe = recipe

    def describe(self, manifest: manifest_pb2.Manifest, vocab_size: int) -> None:
        """See :class:`Task`."""
        manifest.task = manifest_pb2.TASK_CAPTION
        manifest.limits.CopyFrom(manifest_pb2.Limits(max_target_tokens=MAX_CAPTION_TOKENS, max_beam_size=MAX_BEAM_SIZE))
        manifest.vocabulary.CopyFrom(_vocabulary(vocab_size, self._recipe.data.language))
        size, cells = efficientnet.IMAGE_SIZE, efficientnet.grid_size()
        manifest.image.CopyFrom(manifest_pb2.ImageInput(height=size, width=size, grid_height=cells, grid_width=cells))
        terms = (
            "Flickr8k (Hodosh, Young and Hockenmaier 2013): distributed for non-commercial research and education; the photos "
            "belong to their authors. The trunk: EfficientNet-Lite0, trained on ImageNet, Apache-2.0."
        )
        manifest.data.CopyFrom(manifest_pb2.Data(name="Flickr8k, training split (6,000 photos, 5 captions each)", terms=terms))

    def parity_sources(self, data_root: Path, tokenizer: sentencepiece.SentencePieceProcessor) -> Sources:
        """Returns photos that training held back."""
        held = set(hold_back(range(6000), self._recipe.data.held_back, self._recipe.seed)[1][:NUM_PARITY_PHOTOS])
        photos = [np.asarray(photo) for index, photo in enumerate(read_pixels(data_root, "train")) if index in held]
        return ImageSources(photos, NUM_CELLS)

    def golden_sources(self, tokenizer: sentencepiece.SentencePieceProcessor) -> Sources:
        """Fields of colour."""
        return ImageSources(made_up_images(NUM_MADE_UP_IMAGES, efficientnet.IMAGE_SIZE, efficientnet.IMAGE_SIZE), NUM_CELLS)

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """See :class:`Task`."""
        return caption_card(manifest, self._recipe, summary, pictures)


def task_of(recipe: SequenceRecipe) -> Task:
    """Returns the task of a recipe."""
    return Caption(recipe) if isinstance(recipe, CaptionRecipe) else Translation(recipe)


def _vocabulary(size: int, language: str, source_language: str = "") -> manifest_pb2.Vocabulary:
    return manifest_pb2.Vocabulary(
        sentencepiece_file="tokenizer.model",
        size=size,
        pad_id=PAD_ID,
        unknown_id=UNKNOWN_ID,
        begin_id=BEGIN_ID,
        end_id=END_ID,
        source_language=source_language,
        target_language=language,
    )
