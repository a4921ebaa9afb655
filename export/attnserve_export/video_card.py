# SPDX-License-Identifier: Apache-2.0
"""The model card of a video classifier."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.model_card import chart, picture, quality_table, variant_names
from attnserve_export.pass_card import confusion_lines, interval, parity_lines, training, verdict
from attnserve_export.recipe import VideoRecipe

_SHOWN = {"non-local": "Non-local", "twin": "twin without the block", "baseline": "frame differences, logistic regression"}
_TWIN = "non-local - twin"
MIN_SAME_CLASS, MAX_MEAN_DIFFERENCE = 95.0, 0.03
"""Of clips sent as encoded files: percentage with the same class, and mean difference of the probability."""


def video_card(
    manifest: manifest_pb2.Manifest, recipe: VideoRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    paper, name, log, measured = manifest.paper, manifest.model_id, summary["log"], summary["measured"]
    clip, accuracy = manifest.single_pass.clip, 100 * summary["test_accuracy"]
    cells = clip.cells
    lines = [
        f"# {name}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}).",
        "",
        "- Network: differences of neighbouring frames, EfficientNet-Lite0 up to stride 8 (ImageNet weights, frozen), means over "
        "space and time, one Non-local block over all cells; the paper has a ResNet-50 with five blocks, trained on 240,000 clips. "
        f"Sizes: {', '.join(f'{key} {value}' for key, value in recipe.model.items())}; {summary['parameters']['model']:,} trained "
        "parameters.",
        f"- Input: {clip.frames} frames of {clip.size.width} × {clip.size.height} pixels, evenly over the clip. A frame of any "
        "shape is scaled to a square; frames of a short clip are repeated.",
        "- Output: the probability of each class.",
        f"- Attention: {' '.join(f'`{each.output}`, {each.meaning}' for each in manifest.single_pass.attention)} There are "
        f"{cells.times} × {cells.rows} × {cells.columns} cells; one covers {cells.frames} frames and "
        f"{clip.size.width // cells.columns} × {clip.size.height // cells.rows} pixels.",
        f"- Variants: {variant_names(manifest)}; weights are stored once, in 16 bits.",
        "",
        "## Training",
        "",
        training(
            name, recipe, summary, f"loss of {recipe.data.inner_folds} inner models on the training clips held back from them"
        ),
        f"On cached features of {recipe.data.views} views of each clip: unchanged, mirrored, and altered ones (sections, crops, "
        "reversed, blurred, recompressed).",
        *_adaptation(recipe, summary),
        "",
        *chart("Training loss (with label smoothing)", log, ("loss",)),
        *chart("Loss held back", log, ("held_back_loss",)),
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        f"By `attnserve export {name}` with the graph classify.onnx on val ({summary['test_clips']} clips of sources that were "
        f"not trained on; one clip is {100 / summary['test_clips']:.1f} points): accuracy {measured['val']['score']:.2f} %; the "
        f"trained weights in PyTorch: {accuracy:.2f} %.",
        "",
        *confusion_lines(summary["classes"], measured["val"]["confusion"], "clips"),
        *_skew(summary),
        *_protocol(summary),
        *picture("video.jpg", "A rendered clip: its sampled frames, and the attention of a position over them", pictures),
        *parity_lines(manifest, measured, "clips"),
        *_use(manifest, summary),
    ]
    return "\n".join(lines) + "\n"


def _adaptation(recipe: VideoRecipe, summary: dict[str, Any]) -> list[str]:
    """Returns how the model was adapted to encoded clips, if it was."""
    if recipe.adaptation is None or "adapted" not in summary:
        return []
    found, options = summary["adapted"], recipe.adaptation
    return [
        "",
        f"Then {options.epochs} epochs that also read clips through video files ({', '.join(found['encodings'])}), whose margins "
        f"had to be those of their frames (weight {options.consistency:g}); {options.directions} directions of the 80 channels, "
        "those that encoding changes most, are no longer read. Both numbers were selected on training clips. The accuracy on "
        f"val was {100 * found['test_accuracy_before']:.2f} % before them.",
    ]


def _use(manifest: manifest_pb2.Manifest, summary: dict[str, Any]) -> list[str]:
    """Returns what the model is for, and what it must not be used for."""
    return [
        "## Use, limits, terms",
        "",
        "Trained on 174 clips of two seconds from surveillance cameras, cut from public online videos. "
        f"{_errors(summary)} **It must not be used to watch, judge or report people, to call for action against people, or for any "
        "other decision about a person**, with or without a human check: it is a demonstration of the block. It takes strong, "
        "irregular motion for a fight, also in sport, dance, play and crowds, and was not measured for differences between groups "
        "of people. Of anything else it says one of its two classes too.",
        "All clips of the data set were reduced to JPEG frames before training. **The skew against the streams of real cameras "
        "(their codecs, noise, light, frame rates, angles) is not measured.**",
        "The weights show which cells a cell was computed from; they do not explain a class. Clips of the data set are not shown.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]


def _errors(summary: dict[str, Any]) -> str:
    """Returns how often the model is wrong, in words."""
    val = summary["measured"]["val"]
    rows = enumerate(zip(summary["classes"], val["confusion"], strict=True))
    of_class = " and ".join(f"{100 - row[index]:.0f} % of {name}" for index, (name, row) in rows)
    found = f"It takes {100 - val['score']:.0f} % of the clips of val for the other class ({of_class})"
    if "gain" in summary:
        found += f", and {100 - summary['gain']['accuracies']['non-local']['accuracy'][0]:.0f} % in the cross-validation"
    return f"{found}."


def _protocol(summary: dict[str, Any]) -> list[str]:
    """Reports the cross-validation, if it was recorded."""
    if "gain" not in summary:
        return []
    found = summary["gain"]
    seeds = len(found["accuracies"]["non-local"]["of_each_seed"])
    chosen = ", ".join(f"{kind} {count}" for kind, count in found["chosen"].items())
    return [
        "## Gain of the attention",
        "",
        f"Cross-validation over train and val together: {found['folds']} folds that share no source video, {seeds} seeds; the "
        "pairwise function of each fold is selected inside it by the held-back loss "
        f"(chosen: {chosen}). Mean accuracy (%) with its 95 % interval, by bootstrap over sources and seeds:",
        "",
        f"| | mean | {' | '.join(f'seed {seed}' for seed in range(1, seeds + 1))} | of val alone |",
        "| --- |" + " --- |" * (seeds + 2),
        *(
            f"| {_SHOWN[name]} | {each['accuracy'][0]:.1f} [{each['accuracy'][1]:.1f}, {each['accuracy'][2]:.1f}] | "
            f"{' | '.join(f'{score:.1f}' for score in each['of_each_seed'])} | {each['of_val']:.1f} |"
            for name, each in found["accuracies"].items()
        ),
        "",
        f"Differences in points, paired: {'; '.join(f'{pair}: {interval(each)}' for pair, each in found['gains'].items())}. "
        f"{verdict(found['gains'][_TWIN])} `{found['command']}`",
        "",
    ]


def _skew(summary: dict[str, Any]) -> list[str]:
    """Reports how encoding changes the answers, if it was recorded."""
    if "skew" not in summary:
        return []
    found = summary["skew"]
    return [
        f"The {found['clips']} clips of val, sent as encoded files instead of as their frames. `{found['command']}`",
        "",
        "| file | size | same class | mean difference of the probability | largest |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {each['codec']} | {each['width']} × {each['height']} | {each['same_class']:.1f} % | "
            f"{each['mean_difference']:.4f} | {each['largest_difference']:.3f} |"
            for each in found["encodings"]
        ),
        "",
        _skew_verdict(found["encodings"]),
        "",
    ]


def _skew_verdict(encodings: list[dict[str, Any]]) -> str:
    """Returns what the comparison says, by the limits that are asked of it."""
    same, mean = (pick(each[key] for each in encodings) for pick, key in ((min, "same_class"), (max, "mean_difference")))
    wanted = f"wanted: the same class of at least {MIN_SAME_CLASS:g} % and a mean difference of at most {MAX_MEAN_DIFFERENCE:g}"
    if same >= MIN_SAME_CLASS and mean <= MAX_MEAN_DIFFERENCE:
        return f"Encoding hardly changes the answers ({wanted})."
    if mean <= MAX_MEAN_DIFFERENCE:
        return (
            f"**Encoding changes the class of up to {100 - same:.1f} % of the clips** ({wanted}). The probability changes little: "
            "that of these clips is near one half."
        )
    return (
        f"**Encoding changes the answers** ({wanted}). The features are differences of frames, in which the artefacts of the "
        "single JPEG files of the training data move; a codec removes these and adds others."
    )
