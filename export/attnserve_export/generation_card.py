# SPDX-License-Identifier: Apache-2.0
"""The model card of an image generator."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.model_card import chart, picture, quality_table, variant_names
from attnserve_export.pass_card import interval
from attnserve_export.recipe import GenerationRecipe

JUDGE = "cbam-cifar10"
"""Id of the classifier that judges samples; it was not used in the training."""
DIFFERENCE = "generator - twin"
"""Key of a recorded comparison."""


def generation_card(
    manifest: manifest_pb2.Manifest, recipe: GenerationRecipe, summary: dict[str, Any], pictures: Set[str] = frozenset()
) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    paper, name, log = manifest.paper, manifest.model_id, summary["log"]
    made, latent = manifest.single_pass.generated, manifest.single_pass.latent.size
    sizes = ", ".join(f"{key} {value}" for key, value in recipe.model.items())
    rows, columns = made.height // made.cell, made.width // made.cell
    lines = [
        f"# {name}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}).",
        "",
        f"- Network: a residual generator with one self-attention layer. Sizes: {sizes}; "
        f"{summary['parameters']['average']:,} parameters. The discriminator of the training is not in the bundle.",
        f"- Input: a class, and a latent vector of {latent} numbers from N(0, 1), which follows from the seed.",
        f"- Output: an image of {made.width} × {made.height} pixels.",
        f"- Attention: β of equation 1, the weights over {rows} × {columns} cells that a cell attends to.",
        f"- Variants: {variant_names(manifest)}; weights are stored once, in 16 bits. They are the moving average of normalised "
        "weights, with batch normalisations and γ folded into them, so spectral normalisation computes nothing when served.",
        "",
        "## Training",
        "",
        _training(name, recipe, summary),
        *(["Block artefacts of the data set's JPEG files were removed from the training images."] if recipe.data.deblocked else []),
        "",
        *chart("Losses of the discriminator and of the generator", log, ("discriminator_loss", "generator_loss")),
        *chart(
            "Share of pairs in which the real image has the higher score: trained on, and held back",
            log,
            ("trained_rank", "held_back_rank"),
        ),
        *chart("γ of the attention in generator and discriminator", log, ("generator_gamma", "discriminator_gamma")),
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        *_judged(summary),
        *picture(
            "generation.png",
            "Eight generated ships, not selected, each beside itself in the light of the self-attention of one pixel",
            pictures,
        ),
        *_parity(manifest, summary["measured"]),
        "## Use, limits, terms",
        "",
        "It draws small pictures that look like those of its data set, often with wrong details: it is made to show the attention, "
        "and not to make pictures that pass for photos. Class and seed determine an image, so it can be made again; an "
        "image that is made on another device or in another batch may differ by single grey levels.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _training(name: str, recipe: GenerationRecipe, summary: Mapping[str, Any]) -> str:
    devices = sorted({line.get("device", "one core") for line in summary["log"]})
    planned, done = summary.get("planned_epochs", summary["epochs"]), summary["epochs"]
    epochs = f"{done} epochs" if done == planned else f"stopped after {done} of {planned} planned epochs"
    updates = f", {summary['updates']:,} updates of {recipe.schedule.batch}" if summary.get("updates") else ""
    rates = "" if done == planned else " The learning rates had not fallen to 0, as they do at the end of a whole run."
    later, went_on = summary.get("later"), ""
    if later:
        went_on = (
            f" The run went on to epoch {later['epochs']}, where its samples were worse ({later['as_asked']:.1%} classified as "
            f"asked, Fréchet distance {later['fid']:.2f}): the epoch was selected by these figures."
        )
    stop = "" if done == planned else f" --epochs {done}"
    return (
        f"`attnserve train {name}{stop} --data DIR` (seed {recipe.seed}), {' and '.join(devices)}: {epochs}{updates}, "
        f"{summary['train_seconds'] / 60:.0f} minutes. The moving average after the last epoch was kept.{rates}{went_on}"
    )


def _judged(summary: Mapping[str, Any]) -> list[str]:
    """Reports the loss of the stored weights; and the judged samples and the comparison with the twin, if they were recorded."""
    stored = summary["measured"].get("stored", {})
    lines = []
    if stored:
        lines = [
            f"Samples of the stored weights differ from those of the trained ones by {stored['mean_levels']:.3f} of 255 grey "
            f"levels in the mean, {stored['max_levels']} at most, over {stored['samples']:,} images."
        ]
    if "as_asked" in stored:
        lines.append(
            f"{JUDGE} finds the requested class in {stored['as_asked']:.2f} % of them; with the trained weights, in "
            f"{stored['as_asked_trained']:.2f} %."
        )
    lines += [""] if lines else []
    return lines if "gain" not in summary else [*lines, *_gain(summary["gain"])]


def _gain(found: Mapping[str, Any]) -> list[str]:
    sides = {title: found[key] for title, key in (("SAGAN", "generator"), ("no attention", "twin")) if found.get(key)}
    first = found["generator"]
    rows: list[tuple[str, str]] = [
        ("epochs of the training", "{epochs}"),
        ("classified as asked (%)", "{as_asked:.1%}"),
        ("variance within a class, of real images'", "{variance_of_real:.2f}"),
        ("Fréchet distance of the judge's features", "{fid:.2f}"),
    ]
    near = first["nearest_train_image"]
    lines = [
        f"{first['samples']:,} samples of the trained weights, equally many of each class, judged by {found['judge']} (accuracy on "
        f"real images {found['judge_accuracy']:.1%}), which was not used in the training. Its 64 features before the output layer "
        "give variance and Fréchet distance, against 5,000 real images of val; the distance is not comparable with one of "
        "Inception's features.",
        "",
        f"| | {' | '.join(sides)} |",
        "| --- |" + " --- |" * len(sides),
        *(f"| {title} | {' | '.join(form.format(**each) for each in sides.values())} |" for title, form in rows),
        "",
        f"As asked, by class: {', '.join(f'{name} {share:.0%}' for name, share in first['as_asked_by_class'].items())}.",
        f"Distance to the nearest training image, mirrored or not (root mean square, grey levels): median {near['median']:.1f}; of "
        f"real images that were not trained on, {near['median_of_val']:.1f}. "
        f"{near['share_nearer_than_1_percent_of_val']:.1%} of the samples are nearer than the nearest 1 % of those: copies of "
        "training images would be.",
        "",
        f"`{found['command']}`",
        "",
        "## Gain of the attention",
        "",
    ]
    if not found.get(DIFFERENCE):
        return [*lines, "The twin without attention was not trained for as many epochs; the two were not compared.", ""]
    asked, fid = found[DIFFERENCE]["as_asked"], found[DIFFERENCE]["fid"]
    return [
        *lines,
        "Generator minus twin, with the 95 % interval over samples of the same latent vectors; each was trained once, so it does "
        "not cover other seeds of the training.",
        "",
        f"- Classified as asked, in percent: {interval([100 * each for each in asked])}.",
        f"- Fréchet distance, lower is better: {interval(fid)}. {_verdict(fid)}",
        "",
    ]


def _verdict(fid: list[float]) -> str:
    _, low, high = fid
    if high < 0:
        return "The attention lowers it, as the paper claims."
    return "The attention raises it." if low > 0 else "The interval contains 0: no gain of the attention was shown."


def _parity(manifest: manifest_pb2.Manifest, measured: Mapping[str, Any]) -> list[str]:
    parity, mates, exact = manifest.parity, measured["batch_mates"], measured["fp32"]
    worst = max((case.max_abs_difference for case in parity.cases), default=0.0)
    lines = [
        "## Parity with PyTorch",
        "",
        f"fp32, both graphs, {len(parity.cases)} batches: largest difference of a value before rounding, from -1 to 1, or of an "
        f"attention weight {worst:.2g} (allowed: {parity.tolerance:g}). {exact['identical_share']:.4%} of the pixels' values are "
        "the same, the others differ by one grey level.",
    ]
    lines += [
        f"{each.variant}, on ONNX Runtime's CPU provider, which computes part of it in 32 bits: largest difference "
        f"{each.max_abs_difference:.2g}, in the mean {measured[each.variant]['mean_levels']:.2g} grey levels; "
        f"{each.identical_share:.2%} of the values are the same."
        for each in parity.approximate
    ]
    mate_text = (
        "is bit-identical"
        if not mates["max_difference"]
        else f"differs by at most {mates['max_difference']:.1g} before rounding, and in {mates['different_pixels']:,} of "
        f"{mates['pixels']:,} values after it"
    )
    lines.append(f"Batch mates: an image alone and in batches of {', '.join(map(str, mates['batches']))} {mate_text} (fp32, CPU).")
    return [*lines, "", f"`attnserve export {manifest.model_id}` repeats these checks and fails if a limit is exceeded.", ""]
