# SPDX-License-Identifier: Apache-2.0
"""The card of a captioning model."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.model_card import parity_section, picture, quality_table, variant_names
from attnserve_export.recipe import CaptionRecipe


def caption_card(
    manifest: manifest_pb2.Manifest, recipe: CaptionRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Markdown from the manifest, the recipe and the training run's summary; ``pictures`` are those of the whole repository."""
    limits, paper, image, name = manifest.limits, manifest.paper, manifest.image, manifest.model_id
    lines = [
        f"# {name}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}), with "
        f"{recipe.model['attention']} attention, the gate beta and the doubly stochastic penalty.",
        "",
        f"- Image: EfficientNet-Lite0 (ImageNet, not trained further) reads {image.height} × {image.width} pixels; attention is "
        f"over the {image.grid_height} × {image.grid_width} cells of its last grid. A photo of any shape is scaled to a square.",
        f"- Sizes: {', '.join(f'{key} {value}' for key, value in recipe.model.items())}; "
        f"{summary['parameters']:,} parameters, "
        f"{summary['learned_parameters']:,} of them trained.",
        f"- Vocabulary: the {manifest.vocabulary.size:,} most frequent words of its training captions, in lower case.",
        f"- Limits: {limits.max_target_tokens} words, beams of {limits.max_beam_size}.",
        f"- Variants: {variant_names(manifest)}; weights stored once, in 8 bits with a scale for each output.",
        "",
        "## Training",
        "",
        f"`attnserve train {name} --data DIR` (seed {recipe.seed}), one core: {summary['epochs']} epochs, "
        f"{summary['updates']:,} updates, {summary['train_seconds'] / 60:.0f} minutes, from features that are computed once of "
        f"{recipe.data.views} views of each photo (but for two they are cut, blurred, recoloured or compressed anew, at random). "
        f"{recipe.data.held_back} of the 6,000 training photos are held back to select by: BLEU-4 there, beams of "
        f"{summary['beam_size']}, by epoch: {summary['held_back_bleu_4_by_epoch']}; epoch {summary['kept_epoch']} was kept.",
        "",
        *_chart("Loss in nats a word: training (with dropout) and held back", summary["log"], ("train_nll", "held_back_nll")),
        *_chart("BLEU-4 held back, greedy", summary["log"], ("held_back_bleu_greedy",)),
        "| epoch | training loss | loss, held back | BLEU-4, held back, greedy |",
        "| --- | --- | --- | --- |",
        *(_epoch(line) for line in summary["log"]),
        "",
        "Texts of other data sets played no part: many photos and captions of Multi30K are those of Flickr8k.",
        "",
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        "BLEU-4 is that of the corpus, in lower case, without punctuation, against all five captions of each photo.",
        "",
        *picture("captions.jpg", "Captions of photos, good ones and bad ones, with their maps", pictures),
        *parity_section(manifest, "captions"),
        "",
        "## Use, limits, terms",
        "",
        "Trained on 6,000 photos of people and dogs, mostly outdoors, and on nothing else: it describes such photos, and sees "
        "people and dogs in anything else. It counts badly, guesses colours, mixes up what people do with what is near them, "
        'and says "man", "woman", "boy" or "girl" by appearance alone, as its annotators did. It knows no names and reads no '
        "writing. Its maps show which cells it read, which is not the same as why it said a word.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _chart(title: str, log: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """A line for each column of the log over the epochs, as a chart that Markdown viewers draw; the first is off the scale."""
    lines = log[1:]
    if not lines:
        return []
    return [
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "epoch" [{", ".join(str(line["epoch"]) for line in lines)}]',
        *(f"    line [{', '.join(str(line[name]) for line in lines)}]" for name in names),
        "```",
        "",
    ]


def _epoch(line: dict[str, Any]) -> str:
    cells = line["epoch"], line["train_nll"], line["held_back_nll"], line["held_back_bleu_greedy"]
    return f"| {' | '.join(map(str, cells))} |"
