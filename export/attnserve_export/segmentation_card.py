# SPDX-License-Identifier: Apache-2.0
"""The model card of a segmentation model."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.model_card import chart, picture, quality_table, variant_names
from attnserve_export.pass_card import cleaned_lines, confusion_lines, interval, parity_lines, training, verdict
from attnserve_export.recipe import SegmentationRecipe


def segmentation_card(
    manifest: manifest_pb2.Manifest, recipe: SegmentationRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    paper, name, log, measured = manifest.paper, manifest.model_id, summary["log"], summary["measured"]
    sizes = ", ".join(f"{each.width} × {each.height}" for each in manifest.single_pass.picture.sizes)
    held = f"mean IoU on {recipe.data.held_back} frames that are held back from the training split"
    lines = [
        f"# {name}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}).",
        "",
        "- Network: EfficientNet-Lite0 up to stride 16 (ImageNet weights, trained further), the disentangled non-local block, and "
        "a decoder of two levels; the paper has a dilated ResNet-101. Sizes: "
        f"{', '.join(f'{key} {value}' for key, value in recipe.model.items())}; {summary['parameters']['model']:,} parameters.",
        f"- Input: {sizes} pixels. A picture of any shape is scaled to fit one of them and padded; the padding is masked in the "
        "convolutions, in the attention and in the means of the whitening.",
        "- Output: the most probable class of each pixel (of the bilinearly interpolated logits), and its probability.",
        f"- Attention: {' '.join(f'`{each.output}`, {each.meaning}' for each in manifest.single_pass.attention)} A cell is "
        f"{manifest.single_pass.picture.cell} × {manifest.single_pass.picture.cell} pixels.",
        f"- Variants: {variant_names(manifest)}; weights are stored once, in 16 bits.",
        "",
        "## Training",
        "",
        training(name, recipe, summary, held),
        "Half of the views are blurred, rescaled, recoloured or recompressed.",
        "",
        *chart("Training loss", log, ("loss",)),
        *chart("Mean IoU held back, in percent", log, ("held_back_miou",)),
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        f"By `attnserve export {name}` with the graph segment.onnx on val ({len(summary['classes'])} classes, Void left out): mean "
        f"IoU {measured['val']['score']:.2f}; the trained weights in PyTorch: {summary['val_miou']:.2f}. IoU by class:",
        "",
        f"| | {' | '.join(summary['classes'])} |",
        "| --- |" + " --- |" * len(summary["classes"]),
        _ious("segment.onnx", summary["classes"], measured["val"]["of_class"]),
        _ious("trained weights", summary["classes"], summary["val_ious"]),
        "",
        "Published on CamVid's test split, with larger images or networks: SegNet 60.1, BiSeNet 68.7. Here it is val, one stretch "
        "of a drive that is also in the training split; the frames that selected the epoch lie on both sides of it.",
        "",
        *cleaned_lines("Mean IoU", summary["val_miou"], summary["val_miou_cleaned"], 1),
        *confusion_lines(summary["classes"], measured["val"]["confusion"], "pixels"),
        *_gain(summary),
        *picture("segmentation.png", "A street scene: classes, confidence, unary map and a pairwise map", pictures),
        *parity_lines(manifest, measured, "pixels"),
        "## Use, limits, terms",
        "",
        "Trained on 367 frames from a car in one city, by day: it labels such scenes, and labels anything else as a street too. "
        "It has no class for what it does not know. It misses most poles and fences and a third of the signs, and draws "
        "pedestrians too large: it must not be relied on for safety. The maps show which cells a cell was computed from; they do "
        "not explain a class.",
        "Pictures of the data set are not shown, since its terms do not allow it in a repository like this.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _ious(label: str, classes: list[str], found: dict[str, float]) -> str:
    return f"| {label} | {' | '.join(f'{found[name]:.1f}' if name in found else '' for name in classes)} |"


def _gain(summary: dict[str, Any]) -> list[str]:
    """Reports the comparison with the twins, if it was recorded."""
    if "gain" not in summary:
        return []
    found = summary["gain"]
    return [
        "## Gain of the attention",
        "",
        "Networks with this block, with the plain non-local block and with none, trained alike on cached features of a frozen "
        f"trunk (the recipe dnl-camvid-gain) with {len(found['seeds'])} seeds each. Mean IoU on val:",
        "",
        f"| block | {' | '.join(f'seed {seed}' for seed in found['seeds'])} | mean |",
        "| --- |" + " --- |" * (len(found["seeds"]) + 1),
        *(
            f"| {block} | {' | '.join(f'{score:.2f}' for score in scores)} | {sum(scores) / len(scores):.2f} |"
            for block, scores in found["val_miou"].items()
        ),
        "",
        "Difference in points, with its 95 % interval over seeds and stretches of val: "
        f"{'; '.join(f'{pair}: {interval(each)}' for pair, each in found['gains'].items())}. "
        f"{verdict(found['gains']['dnl - none'])} `{found['command']}`",
        "",
    ]
