# SPDX-License-Identifier: Apache-2.0
"""Sections that the model cards of all single-pass models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.recipe import VisionRecipe

_CLEANED = {
    "blurred": "blurred by a Gaussian",
    "rescaled": "reduced and enlarged again",
    "denoised": "filtered by a median of 3 × 3",
}


def training(name: str, recipe: VisionRecipe, summary: dict[str, Any], selected: str) -> str:
    """Returns how a model was trained; ``selected``: what the epoch was selected by."""
    devices = sorted({line.get("device", "one core") for line in summary["log"]})
    return (
        f"`attnserve train {name} --data DIR` (seed {recipe.seed}), {' and '.join(devices)}: {summary['epochs']} epochs, "
        f"{summary['updates']:,} updates of {recipe.schedule.batch}, {summary['train_seconds'] / 60:.0f} minutes. Epoch "
        f"{summary['kept_epoch']} was kept, by the {selected}."
    )


def cleaned_lines(metric: str, unchanged: float, of_cleaned: dict[str, float], factor: float) -> list[str]:
    """Returns the scores on pictures without the artefacts of the data set's JPEG files."""
    return [
        f"The pictures of the data set are JPEG files of one quality. {metric} of the trained weights on val, unchanged and "
        "without the artefacts:",
        "",
        f"| unchanged | {' | '.join(_CLEANED[name] for name in of_cleaned)} |",
        "| --- |" + " --- |" * len(of_cleaned),
        f"| {unchanged:.2f} | {' | '.join(f'{factor * value:.2f}' for value in of_cleaned.values())} |",
        "",
    ]


def confusion_lines(classes: Sequence[str], rows: Sequence[Sequence[float]], what: str) -> list[str]:
    """Returns a confusion matrix as a table; ``what``: plural noun of the examples."""
    return [
        f"Of the {what} of each true class (row), the percentage that got each class (column):",
        "",
        f"| | {' | '.join(classes)} |",
        "| --- |" + " --- |" * len(classes),
        *(
            f"| {name} | {' | '.join(f'**{each:.1f}**' if at == index else f'{each:.1f}' for at, each in enumerate(row))} |"
            for index, (name, row) in enumerate(zip(classes, rows, strict=True))
        ),
        "",
    ]


def interval(found: Sequence[float]) -> str:
    """Returns a mean and the bounds of its interval."""
    mean, low, high = found
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def verdict(found: Sequence[float]) -> str:
    """Returns what an interval says of a gain."""
    _, low, high = found
    if low > 0:
        return "The attention improves the score."
    if high < 0:
        return "The attention lowers the score."
    return "The interval contains 0: no gain of the attention was shown."


def parity_lines(manifest: manifest_pb2.Manifest, measured: dict[str, Any], compared: str) -> list[str]:
    """Reports the comparison with PyTorch and both kinds of independence; ``compared``: plural noun of what has a class."""
    parity, counts = manifest.parity, measured["classes"]
    worst = max((case.max_abs_difference for case in parity.cases), default=0.0)
    mates = measured["batch_mates"]
    different = counts["fp32"]["different"]
    class_text = f"{different:,} have another class, each at a near-tie" if different else "all have the same class"
    mate_text = (
        "bit-identical probabilities"
        if not mates["max_difference"]
        else f"probabilities that differ by at most {mates['max_difference']:.1g}, and the same class"
    )
    one, batches = "picture", "numbers and sizes of pictures, padded with noise"
    if compared == "clips":
        one, batches = "clip", "numbers of clips, one of noise"
    lines = [
        "## Parity with PyTorch",
        "",
        f"fp32, both graphs, {len(parity.cases)} batches of different {batches}: largest "
        f"difference of a probability or an attention weight {worst:.2g} (allowed: {parity.tolerance:g}). Of "
        f"{counts['fp32']['compared']:,} {compared}, {class_text}.",
    ]
    lines += [
        f"{each.variant}, on ONNX Runtime's CPU provider, which computes part of it in 32 bits: largest difference "
        f"{each.max_abs_difference:.2g}, divergence {each.divergence:.2g} nats (allowed: {each.max_divergence:g}), the same class "
        f"for {each.identical_share:.4%}. It was not run on a GPU."
        for each in parity.approximate
    ]
    lines.append(
        f"Batch mates: a {one} alone and in batches of {', '.join(map(str, mates['batches']))} has {mate_text} (fp32, CPU)."
    )
    if "padding" in measured:
        padding = measured["padding"]
        lines.append(
            f"Padding: in another size of the input, at least {padding['least_share']:.2%} of a picture's pixels have the same "
            f"class, and at least {padding['least_edge_share']:.2%} of its last two rows or columns; the mean of "
            f"{padding['comparisons']} comparisons is {padding['mean_share']:.3%} (allowed: at least 99.5 % of both)."
        )
    return [*lines, "", f"`attnserve export {manifest.model_id}` repeats these checks and fails if a limit is exceeded.", ""]
