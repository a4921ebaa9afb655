# SPDX-License-Identifier: Apache-2.0
"""The model card: what the model is, how it was made, how good it is, and on which terms it may be used."""

from __future__ import annotations

from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.recipe import Recipe


def model_card(manifest: manifest_pb2.Manifest, recipe: Recipe, summary: dict[str, Any]) -> str:
    """Markdown from the manifest, the recipe and the training run's summary."""
    parity, limits = manifest.parity, manifest.limits
    worst = max((case.max_abs_difference for case in parity.cases), default=0.0)
    paper = manifest.paper
    lines = [
        f"# {manifest.model_id}, version {manifest.version}",
        "",
        f"{manifest.description} After [{paper.title}]({paper.url}) ({paper.authors} {paper.year}).",
        "",
        f"- Sizes: {', '.join(f'{key} {value}' for key, value in recipe.model.items())}; {summary['parameters']:,} parameters.",
        f"- Vocabulary: {manifest.vocabulary.size} SentencePiece pieces ({recipe.tokenizer.model_type}), shared by both languages.",
        f"- Limits: {limits.max_source_tokens} source pieces, {limits.max_target_tokens} target pieces, "
        f"beams of {limits.max_beam_size}.",
        f"- Variants: {', '.join(variant.name for variant in manifest.variants)}; weights stored once, in 16 bits.",
        "",
        "## Training",
        "",
        f"`attnserve train {manifest.model_id} --data DIR` (seed {recipe.seed}), one core: {summary['epochs']} epochs, "
        f"{summary['updates']:,} updates, {summary['train_seconds'] / 60:.0f} minutes. The mean of the last "
        f"{summary['averaged_epochs']} epochs' weights was best on val "
        f"(greedy BLEU, lower case, by number of epochs averaged: {summary['val_bleu_lc_by_average']}).",
        f"Last epoch: training loss {summary['last_epoch']['train_nll']}, validation loss {summary['last_epoch']['val_nll']} "
        "(nats a piece, without label smoothing).",
        "",
        "## Quality",
        "",
        *_quality(manifest),
        "",
        "## Parity with PyTorch",
        "",
        f"fp32: largest difference of a logit over {len(parity.cases)} batches: {worst:.2g} (allowed: {parity.tolerance:g}). Of "
        f"{parity.num_sentences} sentences decoded greedily on both sides {parity.num_identical} have the same pieces, "
        f"{parity.num_near_ties} part at a near-tie.",
        *map(_approximate, parity.approximate),
        "",
        f"`attnserve export {manifest.model_id}` measures this anew and fails outside it.",
        "",
        "## Use, limits, terms",
        "",
        "Trained on short descriptions of photos alone: it translates such sentences well and anything else badly (news, dialogue, "
        "names, numbers). It mirrors what its annotators wrote, their guesses about people included.",
        "",
        f"{manifest.data.name}. {manifest.data.terms} The weights inherit these terms; the code is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _quality(manifest: manifest_pb2.Manifest) -> list[str]:
    """A table: a line for every variant and command, a column for every metric."""
    if not manifest.quality:
        return ["Not measured yet."]
    metrics = sorted({each.metric for each in manifest.quality})
    figures: dict[tuple[str, str, str], dict[str, str]] = {}
    for each in manifest.quality:
        figures.setdefault((each.variant, each.dataset, each.command), {})[each.metric] = f"{each.value:.2f}"
    return [
        "Through the server, `attnserve serve --variant NAME`:",
        "",
        f"| variant | data | {' | '.join(metrics)} | command |",
        "| --- | --- |" + " --- |" * (len(metrics) + 1),
        *(
            f"| {variant} | {dataset} | {' | '.join(values.get(metric, '') for metric in metrics)} | `{command}` |"
            for (variant, dataset, command), values in figures.items()
        ),
    ]


def _approximate(variant: manifest_pb2.ApproximateVariant) -> str:
    return (
        f"{variant.variant}: largest difference of a logit {variant.max_abs_difference:.2g}; {variant.identical_share:.0%} of the "
        f"sentences have the same pieces; its next token's distribution diverges by {variant.divergence:.2g} nats a token "
        f"(allowed: {variant.max_divergence:g}). What that costs is in the table above."
    )
