# SPDX-License-Identifier: Apache-2.0
"""The model card of an image classifier."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.model_card import chart, picture, quality_table, variant_names
from attnserve_export.pass_card import cleaned_lines, confusion_lines, interval, parity_lines, training, verdict
from attnserve_export.recipe import ClassificationRecipe


def classification_card(
    manifest: manifest_pb2.Manifest, recipe: ClassificationRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    paper, name, log, measured = manifest.paper, manifest.model_id, summary["log"], summary["measured"]
    size, accuracy = manifest.single_pass.picture.sizes[0], 100 * summary["val_accuracy"]
    lines = [
        f"# {name}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}).",
        "",
        "- Network: ResNet-20 with an attention module in each block. Sizes: "
        f"{', '.join(f'{key} {value}' for key, value in recipe.model.items())}; {summary['parameters']['model']:,} parameters.",
        f"- Input: {size.width} × {size.height} pixels. A picture of any shape is scaled to a square.",
        "- Output: the probability of each class.",
        f"- Attention: of each of {len(manifest.single_pass.attention) // 2} blocks, M_c of equation 2, a factor of each channel, "
        "and M_s of equation 3, a factor of each cell.",
        f"- Variants: {variant_names(manifest)}; weights are stored once, in 16 bits.",
        "",
        "## Training",
        "",
        training(name, recipe, summary, f"accuracy on {recipe.data.held_back:,} images that are held back from the training split"),
        f"Of the training images {recipe.data.altered:.0%} are blurred, rescaled, recoloured or recompressed.",
        "",
        *chart("Training loss (with label smoothing)", log, ("loss",)),
        *chart("Accuracy: training (of altered images) and held back", log, ("accuracy", "held_back_accuracy")),
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        f"By `attnserve export {name}` with the graph classify.onnx on val (5,000 images of CIFAR-10's test split): accuracy "
        f"{measured['val']['score']:.2f} %; the trained weights in PyTorch: {accuracy:.2f} %.",
        "",
        *cleaned_lines("Accuracy (%)", accuracy, summary["val_accuracy_cleaned"], 100),
        *confusion_lines(summary["classes"], measured["val"]["confusion"], "images"),
        *_gain(summary),
        *picture("classification.jpg", "A photo that is not from the data set: its classes and the maps of each block", pictures),
        *parity_lines(manifest, measured, "images"),
        "## Use, limits, terms",
        "",
        "Trained on images of 32 × 32 pixels with one object in the middle: a photo is scaled to that, so details are lost and "
        "small objects disappear. It gives one of its ten classes for any picture. Cats and dogs are confused most. The maps show "
        "by what the block's features were multiplied; they do not explain a class.",
        "Images of the data set are not shown, since no licence allows it.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _gain(summary: dict[str, Any]) -> list[str]:
    """Reports the comparison with the twin, if it was recorded."""
    if "gain" not in summary:
        return []
    found = summary["gain"]
    seeds = list(found["val_accuracy"])
    rows = (("CBAM", found["val_accuracy"]), ("no attention", found["val_accuracy_of_twin"]))
    return [
        "## Gain of the attention",
        "",
        f"Networks with and without the modules, trained alike for {found['epochs']} epochs. Accuracy on val (%):",
        "",
        f"| | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |",
        "| --- |" + " --- |" * (len(seeds) + 1),
        *(
            f"| {label} | {' | '.join(f'{of_seed[seed]:.2f}' for seed in seeds)} | {sum(of_seed.values()) / len(seeds):.2f} |"
            for label, of_seed in rows
        ),
        "",
        f"Difference in points, with its 95 % interval over seeds and images: {interval(found['gain'])}. {verdict(found['gain'])} "
        f"`{found['command']}`",
        "",
    ]
