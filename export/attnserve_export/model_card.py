# SPDX-License-Identifier: Apache-2.0
"""The model card: the model, its training, its quality, and the terms of use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.recipe import Recipe


def model_card(manifest: manifest_pb2.Manifest, recipe: Recipe, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
    """Makes the card (Markdown) from manifest, recipe and the run's summary; ``pictures``: file names in the repository."""
    limits = manifest.limits
    paper, has_lengths = manifest.paper, any(each.part for each in manifest.quality)
    lines = [
        f"# {manifest.model_id}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}).",
        "",
        f"- Sizes: {', '.join(f'{key} {value}' for key, value in recipe.model.items())}; {summary['parameters']:,} parameters.",
        f"- Vocabulary: {manifest.vocabulary.size} SentencePiece pieces ({recipe.tokenizer.model_type}), shared by both languages.",
        f"- Limits: {limits.max_source_tokens} source pieces, {limits.max_target_tokens} target pieces, "
        f"beams of {limits.max_beam_size}.",
        f"- Variants: {variant_names(manifest)}; weights are stored once, in 16 bits.",
        "",
        "## Training",
        "",
        f"`attnserve train {manifest.model_id} --data DIR{' --taught FILE' if recipe.distillation else ''}` (seed {recipe.seed}), "
        f"one core: {summary['epochs']} epochs, "
        f"{summary['updates']:,} updates, {summary['train_seconds'] / 60:.0f} minutes. The mean of the last "
        f"{summary['averaged_epochs']} epochs' weights was best on val "
        f"(greedy BLEU, lower case, by number of epochs averaged: {summary['val_bleu_lc_by_average']}).",
        f"Last epoch: training loss {summary['last_epoch']['train_nll']}, validation loss {summary['last_epoch']['val_nll']} "
        "(nats a piece, without label smoothing).",
        *_schedule(recipe),
        *([summary["note"]] if "note" in summary else []),
        "",
        "## Quality",
        "",
        *quality_table(manifest),
        "",
        *_lengths([each for each in manifest.quality if each.part]),
        *picture("bleu-by-length.png", "BLEU by source length, all translation models", pictures if has_lengths else set()),
        *_alignment(summary),
        *picture("alignments.png", "Alignments of two models, side by side", pictures if "alignment" in summary else set()),
        *parity_section(manifest, "sentences"),
        "",
        "## Use, limits, terms",
        "",
        "Trained on short descriptions of photos alone: it translates such sentences well and other text badly (news, dialogue, "
        "names, numbers). It reproduces the annotators' assumptions, for example about people.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def variant_names(manifest: manifest_pb2.Manifest) -> str:
    """Lists all variants with their devices."""
    names = {manifest_pb2.DEVICE_CUDA: "CUDA"}
    return ", ".join(f"{each.name} ({names.get(each.device, 'CPU')})" for each in manifest.variants)


def parity_section(manifest: manifest_pb2.Manifest, answers: str) -> list[str]:
    """Reports the difference between the graphs and PyTorch; ``answers``: plural noun for the decoded outputs."""
    parity = manifest.parity
    worst = max((case.max_abs_difference for case in parity.cases), default=0.0)
    return [
        "## Parity with PyTorch",
        "",
        f"fp32: largest difference of a logit over {len(parity.cases)} batches: {worst:.2g} (allowed: {parity.tolerance:g}). Of "
        f"{parity.num_sentences} {answers} decoded greedily on both sides, {parity.num_identical} have the same pieces and "
        f"{parity.num_near_ties} differ at a near-tie.",
        *(_approximate(each, answers) for each in parity.approximate),
        "",
        f"`attnserve export {manifest.model_id}` repeats this check and fails if a limit is exceeded.",
    ]


def _lengths(figures: list[manifest_pb2.Quality]) -> list[str]:
    """Returns a table of scores by source length, for every variant and command."""
    if not figures:
        return []
    columns = {each.part: each.part.removeprefix("sources of ").removesuffix(" words") for each in figures}
    return [
        "By number of source words (lower-case BLEU, as in Figure 2 of Bahdanau et al. 2015):",
        "",
        *_table(figures, columns, lambda each: (each.part, f"{each.value:.1f}")),
        "",
    ]


def _table(
    figures: list[manifest_pb2.Quality], columns: Mapping[str, str], cell: Callable[[manifest_pb2.Quality], tuple[str, str]]
) -> list[str]:
    """Returns a row for every variant and command; ``columns``: column -> heading; ``cell``: a figure -> its column and text."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for each in figures:
        column, text = cell(each)
        rows.setdefault((each.variant, each.dataset, each.command), {})[column] = text
    return [
        f"| variant | data | {' | '.join(columns.values())} | command |",
        "| --- | --- |" + " --- |" * (len(columns) + 1),
        *(
            f"| {variant} | {dataset} | {' | '.join(values.get(column, '') for column in columns)} | `{command}` |"
            for (variant, dataset, command), values in rows.items()
        ),
    ]


def _schedule(recipe: Recipe) -> list[str]:
    """Describes annealing and distillation, if the recipe has them."""
    lines = []
    if recipe.annealing is not None:
        lines.append(f"From epoch {recipe.annealing.first_epoch} on, learning rate and dropout fall linearly to 0.")
    if recipe.distillation is not None:
        teacher, share = recipe.distillation.teacher, recipe.distillation.share
        lines.append(
            f"From epoch {recipe.distillation.first_epoch} on, {share:.0%} of the targets are {teacher}'s translations of the "
            "training sources, sequence-level knowledge distillation ([Kim and Rush 2016](https://arxiv.org/abs/1606.07947)): "
            f"`attnserve translate --model {teacher} --beam-size 2 < SOURCES > FILE`."
        )
    return lines


def picture(name: str, text: str, pictures: Set[str]) -> list[str]:
    """Links a picture of the repository, if it exists."""
    return [f"![{text}](../../{name})", ""] if name in pictures else []


def _alignment(summary: dict[str, Any]) -> list[str]:
    """Reports which layers and heads the server returns as the alignment, and the measurement that selected them."""
    if "alignment" not in summary:
        return []
    found = summary["alignment"]
    best, heads = found["best"], range(len(found["agreement"][0]))
    chosen = ", ".join(f"{name} {each[0]}" for name, each in (("layer", best["layers"]), ("head", best["heads"])) if each)
    rows = zip(found["agreement"], found["agreement_of_layer_means"], strict=True)
    return [
        "## Alignment",
        "",
        f"How often a head, or the mean of a layer's heads, selects the same source word as the alignment of {found['against']}, "
        f"over {found['words']:,} target words of {found['sentences']:,} references ({found['split']}): `{found['command']}`. "
        f"The highest, {chosen}, is what `return_attention: MEAN` returns.",
        "",
        f"| layer | {' | '.join(f'head {head}' for head in heads)} | mean of its heads |",
        "| --- |" + " --- |" * (len(heads) + 1),
        *(f"| {index} | {' | '.join(f'{each:.1%}' for each in (*row, mean))} |" for index, (row, mean) in enumerate(rows)),
        "",
        f"Mean of all: {found['agreement_of_mean']:.1%}.",
        "",
    ]


def chart(title: str, log: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Returns a Mermaid chart with a line for each column of the log, over the epochs; the first epoch is left out."""
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


def quality_table(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns a table of the measurements on whole data sets, with a column for every metric."""
    measured = [each for each in manifest.quality if not each.part]
    if not measured:
        return ["Not measured yet."]
    metrics = {metric: metric for metric in sorted({each.metric for each in measured})}
    return [
        "Measured through the server, `attnserve serve --variant NAME`:",
        "",
        *_table(measured, metrics, lambda each: (each.metric, f"{each.value:.2f}")),
    ]


def _approximate(variant: manifest_pb2.ApproximateVariant, answers: str) -> str:
    return (
        f"{variant.variant}: largest difference of a logit {variant.max_abs_difference:.2g}; {variant.identical_share:.0%} of the "
        f"{answers} have the same pieces; the divergence of the next token's distribution is {variant.divergence:.2g} nats a token "
        f"(allowed: {variant.max_divergence:g}). The table above shows the effect on quality."
    )
