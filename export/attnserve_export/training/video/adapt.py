# SPDX-License-Identifier: Apache-2.0
"""Trains a finished video classifier further, so that its answer to an encoded clip is that to the clip's frames.

``python -m attnserve_export.training.video.adapt --data DIR --runs RUNS --output-runs RUNS2`` adapts the run that was trained on
train alone and writes the run folder that `attnserve export --runs RUNS2` reads. ``--folds`` adapts the cross-validation's models
instead and prints their accuracy, so that the adapted training has figures of its own.

The loss adds to the cross-entropy the squared difference between the probabilities of a clip and of the clip through a video file
(``encoded.py``), weighted by ``WEIGHT``. That weight was selected on training clips: ``--select``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.cli import RUNS, DataOption, RunsOption
from attnserve_export.models.nonlocal_video import NonlocalHead, NonlocalVideoConfig
from attnserve_export.recipe import VideoRecipe, load_recipe
from attnserve_export.training.accelerated import set_rate
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.run import BEST, SUMMARY, cosine_rate, decay_groups
from attnserve_export.training.start import folder_name
from attnserve_export.training.video.data import CLASSES, Clips, Indices, joined, read_clips
from attnserve_export.training.video.encoded import ENCODINGS, encoded_features
from attnserve_export.training.video.features import FeatureCache, Features
from attnserve_export.training.video.protocol import RECIPE, compare
from attnserve_export.training.video.trainer import outer_parts

WEIGHT = 10.0
CANDIDATES = (2.0, 10.0, 30.0)
EPOCHS, RATE = 20, 0.002
SEEDS = (1, 2, 3)
SKEW_FEATURES = "features-fight_video-encoded"
Array = npt.NDArray[np.float64]


class Data:
    """All clips, train first, with the cached features of their views and of their encoded forms."""

    def __init__(self, data: Path, runs: Path, output: Path, views: int) -> None:
        self.train, self.val = (read_clips(data, split) for split in ("train", "val"))
        self.clips: Clips = joined(self.train, self.val)
        self.labels = torch.from_numpy(self.clips.labels)
        cache = FeatureCache(runs / "features-fight_video", typer.echo)
        parts = (("train", self.train), ("val", self.val))
        self.views = [np.concatenate([cache.view(name, clips, view) for name, clips in parts]) for view in range(views)]
        encoded = [encoded_features(output / SKEW_FEATURES, name, clips, typer.echo) for name, clips in parts]
        self.encoded = [np.concatenate(each) for each in zip(*encoded, strict=True)]


def adapt(head: NonlocalHead, data: Data, trained: Indices, weight: float, seed: int) -> NonlocalHead:
    """Trains a head further, in place.

    Args:
        head: a trained one.
        data: all clips.
        trained: the clips to train on.
        weight: of the squared difference of probabilities.
        seed: draws the order and the views.
    """
    recipe, rng = load_recipe(RECIPE), np.random.default_rng([seed, 1])
    assert isinstance(recipe, VideoRecipe)
    torch.manual_seed(seed)
    updates = -(-len(trained) // recipe.schedule.batch)
    optimizer = torch.optim.AdamW(decay_groups(head, recipe.optimizer.weight_decay), lr=RATE)
    everything, total = [*data.views, *data.encoded], EPOCHS * updates
    for step in range(total):
        if step % updates == 0:
            parts = np.array_split(rng.permutation(trained), updates)
        chosen = parts[step % updates]
        set_rate(optimizer, cosine_rate(RATE, (step + 1) / total, 0.05))
        drawn = [_drawn(each, chosen, rng) for each in (everything, data.views[:1], data.encoded)]
        head.train()
        logits = head(torch.cat(drawn))[0].split(len(chosen))
        loss = functional.cross_entropy(logits[0], data.labels[chosen], label_smoothing=recipe.label_smoothing)
        loss = loss + weight * (logits[1].softmax(-1) - logits[2].softmax(-1)).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    return head


def _drawn(views: Sequence[Features], clips: Indices, rng: np.random.Generator) -> Tensor:
    """Returns a view of each clip at random."""
    of_clip = rng.integers(0, len(views), len(clips))
    return torch.from_numpy(np.stack([views[view][clip] for view, clip in zip(of_clip, clips, strict=True)])).float()


@torch.no_grad()
def probabilities(head: nn.Module, features: Features, clips: Indices) -> Array:
    """Returns the probability of a fight, (clips)."""
    found: Array = head(torch.from_numpy(features[clips]).float())[0].softmax(-1)[:, 1].numpy().astype(np.float64)
    return found


def skew(head: NonlocalHead, data: Data, clips: Indices) -> list[tuple[float, float]]:
    """Returns, for each encoding, the share of clips of the same class and the mean difference of the probability."""
    plain = probabilities(head, data.views[0], clips)
    pairs = [(plain, probabilities(head, each, clips)) for each in data.encoded]
    return [(float(((a > 0.5) == (b > 0.5)).mean()), float(np.abs(a - b).mean())) for a, b in pairs]


def trained_head(run: Path, pairwise: str) -> NonlocalHead:
    """Returns the head of a finished run."""
    head = NonlocalHead(NonlocalVideoConfig(len(CLASSES), pairwise=pairwise))  # type: ignore[arg-type]
    head.load_state_dict(torch.load(run / BEST, weights_only=True))
    return head.eval()


def of_folds(data: Data, runs: Path, weight: float, seeds: Sequence[int], pairwise: str) -> dict[str, Any]:
    """Adapts the models of the cross-validation; returns margins of their test clips, and their skew on test clips of train."""
    recipe = load_recipe(RECIPE)
    assert isinstance(recipe, VideoRecipe)
    margins, skews = [], []
    for seed in seeds:
        of_seed = np.empty(len(data.clips))
        for fold in range(recipe.data.folds):
            trained, tested = outer_parts(data.train, data.val, fold, recipe.data.folds, seed)
            changes = {"seed": seed, "data.fold": fold, "model.pairwise": pairwise}
            head = adapt(trained_head(runs / folder_name(RECIPE, changes), pairwise), data, trained, weight, seed)
            of_seed[tested] = probabilities(head, data.views[0], tested) - 0.5
            skews.append(skew(head, data, tested[tested < len(data.train)]))
        margins.append(of_seed)
    return {"margins": margins, "skew": np.mean(skews, 0).round(4).tolist()}


def select(data: Data, runs: Path) -> dict[str, Any]:
    """Returns for each candidate weight what of train is held out by the folds of one seed: skew, and accuracy of those clips."""
    found = {}
    for weight in CANDIDATES:
        result = of_folds(data, runs, weight, SEEDS[:1], "embedded_gaussian")
        right = (result["margins"][0] > 0) == (data.clips.labels == 1)
        found[str(weight)] = {"accuracy": round(100 * float(right[: len(data.train)].mean()), 2), "skew": result["skew"]}
    return found


def figures(data: Data, runs: Path) -> dict[str, Any]:
    """Returns accuracy of the adapted models and twins over folds and seeds, and their difference, with 95 % intervals."""
    ours, twins = (of_folds(data, runs, WEIGHT, SEEDS, kind)["margins"] for kind in ("embedded_gaussian", "none"))
    intervals = {"non-local": compare(ours, None, data.clips), "twin": compare(twins, None, data.clips)}
    intervals["non-local - twin"] = compare(ours, twins, data.clips)
    return {name: [round(each, 2) for each in (found.mean, found.low, found.high)] for name, found in intervals.items()}


def shipped(data: Data, runs: Path, output: Path, adapted: dict[str, Any] | None = None) -> dict[str, Any]:
    """Adapts the run that was trained on train alone, and writes it as a run folder."""
    recipe = load_recipe(RECIPE)
    pairwise = recipe.model["pairwise"]
    run, target = runs / folder_name(RECIPE, {"model.pairwise": pairwise}), output / RECIPE
    trained = np.arange(len(data.train))
    head = adapt(trained_head(run, pairwise), data, trained, WEIGHT, recipe.seed)
    tested = np.arange(len(data.train), len(data.clips))
    right = (probabilities(head, data.views[0], tested) > 0.5) == (data.clips.labels[tested] == 1)
    summary = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
    about = {
        "epochs": EPOCHS,
        "weight": WEIGHT,
        "encodings": [list(each) for each in ENCODINGS],
        "before": summary["test_accuracy"],
    }
    summary |= {"test_accuracy": round(float(right.mean()), 5), "adapted": about | ({"folds": adapted} if adapted else {})}
    target.mkdir(parents=True, exist_ok=True)
    torch.save(head.state_dict(), target / BEST)
    (target / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for name in ("predictions.json", "log.jsonl"):
        if (run / name).exists():
            shutil.copy(run / name, target / name)
    return {"test_accuracy": summary["test_accuracy"], "adapted": summary["adapted"], "skew": skew(head, data, tested)}


def main(  # noqa: PLR0913 - a command has one parameter for each option
    data: DataOption = Path("data"),
    runs: RunsOption = RUNS,
    output: Annotated[Path, typer.Option("--output-runs", help="Folder of the adapted run, and of the cached features.")] = RUNS,
    selects: Annotated[bool, typer.Option("--select", help="Compare the candidate weights on training clips only.")] = False,
    folds: Annotated[
        Path | None, typer.Option("--folds", help="Adapt the cross-validation's models, and write figures here.")
    ] = None,
    figures_of: Annotated[Path | None, typer.Option("--with-figures", help="The file that --folds wrote, for the card.")] = None,
    result: OutputOption = None,
) -> None:
    """Adapt the shipped model, or the cross-validation's."""
    torch.set_num_threads(1)
    runs, output = runs.expanduser(), output.expanduser()
    recipe = load_recipe(RECIPE)
    assert isinstance(recipe, VideoRecipe)
    found = Data(data, runs, output, recipe.data.views)
    if selects:
        report(lambda: select(found, runs), result)
    elif folds is not None:
        report(lambda: figures(found, runs), folds)
    else:
        adapted = json.loads(figures_of.read_text(encoding="utf-8")) if figures_of else None
        report(lambda: shipped(found, runs, output, adapted), result)


if __name__ == "__main__":
    typer.run(main)
