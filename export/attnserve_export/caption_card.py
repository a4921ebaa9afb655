# SPDX-License-Identifier: Apache-2.0
"""The model card of a captioning model."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.model_card import chart, parity_section, picture, quality_table, variant_names
from attnserve_export.recipe import CaptionRecipe


def caption_card(
    manifest: manifest_pb2.Manifest, recipe: CaptionRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    limits, paper, image, name = manifest.limits, manifest.paper, manifest.image, manifest.model_id
    lines = [
        f"# {name}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}), with "
        f"{recipe.model['attention']} attention, the gate beta and the doubly stochastic penalty.",
        "",
        f"- Image: EfficientNet-Lite0 (ImageNet weights, frozen) reads {image.height} × {image.width} pixels; attention is "
        f"over the {image.grid_height} × {image.grid_width} cells of its last grid. A photo of any shape is scaled to a square.",
        f"- Sizes: {', '.join(f'{key} {value}' for key, value in recipe.model.items())}; "
        f"{summary['parameters']:,} parameters, "
        f"{summary['learned_parameters']:,} of them trained.",
        f"- Vocabulary: the {manifest.vocabulary.size:,} most frequent words of the training captions, in lower case.",
        f"- Limits: {limits.max_target_tokens} words, beams of {limits.max_beam_size}.",
        f"- Variants: {variant_names(manifest)}; weights are stored once, in 8 bits with a scale for each output.",
        "",
        "## Training",
        "",
        f"`attnserve train {name} --data DIR` (seed {recipe.seed}), one core: {summary['epochs']} epochs, "
        f"{summary['updates']:,} updates, {summary['train_seconds'] / 60:.0f} minutes, from cached features of "
        f"{recipe.data.views} views of each photo (the photo, its mirror image, and random crops, some blurred, recoloured or "
        "recompressed). "
        f"{recipe.data.held_back} of the 6,000 training photos are held back for selection by BLEU-4 with beams of "
        f"{summary['beam_size']}; by epoch: {summary['held_back_bleu_4_by_epoch']}. Epoch {summary['kept_epoch']} was kept.",
        "",
        *chart("Loss in nats a word: training (with dropout) and held back", summary["log"], ("train_nll", "held_back_nll")),
        *chart("BLEU-4 held back, greedy", summary["log"], ("held_back_bleu_greedy",)),
        "| epoch | training loss | loss, held back | BLEU-4, held back, greedy |",
        "| --- | --- | --- | --- |",
        *(_epoch(line) for line in summary["log"]),
        "",
        "No text of another data set was used: many photos and captions of Multi30K are those of Flickr8k.",
        "",
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        "BLEU-4 is corpus BLEU, in lower case, without punctuation, against all five captions of each photo.",
        "",
        *picture("captions.jpg", "Correct and wrong captions of photos, with their attention maps", pictures),
        *parity_section(manifest, "captions"),
        "",
        "## Use, limits, terms",
        "",
        "Trained on 6,000 photos of people and dogs, mostly outdoors: it describes such photos, and reports "
        "people and dogs in other photos too. It counts badly, guesses colours, confuses people's actions with nearby objects, "
        'and says "man", "woman", "boy" or "girl" by appearance alone, as its annotators did. It knows no names and does not read '
        "text. Its maps show which cells a word was computed from; they do not explain why the word was chosen.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _epoch(line: dict[str, Any]) -> str:
    cells = line["epoch"], line["train_nll"], line["held_back_nll"], line["held_back_bleu_greedy"]
    return f"| {' | '.join(map(str, cells))} |"
