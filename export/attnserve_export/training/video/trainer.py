# SPDX-License-Identifier: Apache-2.0
"""The training of a classifier of clips, Non-local or its twin without the block, on cached features.

In addition to the model that is kept, a run trains one model for each inner fold of its clips, on the clips outside that fold. All
have the same initial weights and alternate in their updates. The loss of the inner models on their held-back clips selects the
epoch, and, among several runs, the pairwise function. So the test clips are used for neither. The
kept model may then be adapted to encoded clips (``adapt.py``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.models.nonlocal_video import NonlocalHead, NonlocalVideoConfig
from attnserve_export.recipe import VideoRecipe
from attnserve_export.training.accelerated import set_rate
from attnserve_export.training.files import save_atomically, write_json
from attnserve_export.training.run import BEST, TrainingRun, cosine_rate, decay_groups
from attnserve_export.training.video.adapt import Material, adapt
from attnserve_export.training.video.data import CLASSES, Clips, Indices, grouped_folds, joined, read_clips
from attnserve_export.training.video.encoded import ENCODINGS
from attnserve_export.training.video.features import FeatureCache, Features

PREDICTIONS, UNADAPTED = "predictions.json", "unadapted.pt"
_FEATURES = "features-fight_video"
"""Folder of the cache, in the folder of all runs."""


class VideoTrainer(TrainingRun[VideoRecipe]):
    """Selects the epoch by the loss of the inner models; reports the test clips (``predictions.json``)."""

    def prepare(self) -> None:
        """See :class:`TrainingRun`."""
        recipe, data = self.recipe, self.recipe.data
        train, val = self.splits = (read_clips(self.data_root, "train"), read_clips(self.data_root, "val"))
        self.cache = FeatureCache(self.folder.parent / _FEATURES, self.console.print)
        self.views = self._features(train, val)
        self.encoded = self._encoded() if self.recipe.adaptation is not None else []
        self.clips = joined(train, val)
        self.labels = torch.from_numpy(self.clips.labels)
        trained, self.tested = outer_parts(train, val, data.fold, data.folds, recipe.seed)
        inner = grouped_folds(self.clips.labels[trained], self.clips.sources[trained], data.inner_folds, recipe.seed)
        self.held = {f"inner_{fold}": trained[inner == fold] for fold in range(data.inner_folds)}
        self.trained = {"model": trained} | {name: np.setdiff1d(trained, held) for name, held in self.held.items()}
        config = self.sizes(NonlocalVideoConfig, len(CLASSES))
        for name in self.trained:
            torch.manual_seed(recipe.seed)
            model = NonlocalHead(config).to(self.device)
            self.modules[name], self.optimizers[name] = model, self._optimizer(model)
        self.updates_per_epoch = -(-len(trained) // recipe.schedule.batch)

    def _features(self, train: Clips, val: Clips) -> list[Features]:
        views = range(self.recipe.data.views)
        return [np.concatenate((self.cache.view("train", train, view), self.cache.view("val", val, view))) for view in views]

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options = self.recipe.optimizer
        groups = decay_groups(model, options.weight_decay)
        return torch.optim.AdamW(groups, lr=options.peak_learning_rate, fused=True)

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        """See :class:`TrainingRun`."""
        return {"loss" if name == "model" else f"{name}_loss": self._update(name, epoch, index, rng) for name in self.trained}

    def _update(self, name: str, epoch: int, index: int, rng: np.random.Generator) -> float:
        recipe, model, optimizer, trained = self.recipe, self.modules[name], self.optimizers[name], self.trained[name]
        chosen = trained[np.array_split(self.order(epoch, len(trained)), self.updates_per_epoch)[index]]
        views = rng.integers(0, len(self.views), len(chosen))
        features = self._as_input(np.stack([self.views[view][clip] for view, clip in zip(views, chosen, strict=True)]))
        warmup = recipe.optimizer.warmup_epochs / recipe.schedule.epochs
        set_rate(optimizer, cosine_rate(recipe.optimizer.peak_learning_rate, self.progress_of(epoch, index + 1), warmup))
        model.train()
        logits, _ = model(features)
        loss = functional.cross_entropy(logits, self.labels[chosen].to(self.device), label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def evaluate(self, epoch: int) -> Mapping[str, float]:
        """See :class:`TrainingRun`."""
        logits = torch.cat([self._logits(name, held) for name, held in self.held.items()])
        labels = self.labels[np.concatenate(list(self.held.values()))]
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"held_back_loss": float(functional.cross_entropy(logits, labels)), "held_back_accuracy": float(accuracy)}

    def score(self, line: Mapping[str, Any]) -> float:
        """See :class:`TrainingRun`."""
        return -float(line["held_back_loss"])

    def conclude(self) -> dict[str, Any]:
        """Returns the accuracy on the test clips; writes the prediction of each (``predictions.json``) for comparisons.

        With an adaptation ``best.pt`` becomes the adapted model. The selected epoch's is kept in ``unadapted.pt``, so that a run
        that is concluded again gives the same.
        """
        selected = self.folder / (BEST if self.recipe.adaptation is None else UNADAPTED)
        if not selected.exists():
            (self.folder / BEST).rename(selected)
        self.modules["model"].load_state_dict(torch.load(selected, weights_only=True, map_location=self.device))
        adapted = self._adapted()
        kept = max(self.log, key=self.score)
        logits = self._logits("model", self.tested)
        found = {self.clips.names[clip]: margin for clip, margin in zip(self.tested, _margins(logits), strict=True)}
        content = {"held_back_loss": kept["held_back_loss"], "held_back_accuracy": kept["held_back_accuracy"], "margins": found}
        write_json(content, self.folder / PREDICTIONS)
        accuracy = self._accuracy(logits)
        return {"classes": list(CLASSES), "test_clips": len(self.tested), "test_accuracy": accuracy, **adapted}

    def _adapted(self) -> dict[str, Any]:
        """Adapts the model to encoded clips, if the recipe says so; returns what the summary says of it."""
        if self.recipe.adaptation is None:
            return {}
        start, before = time.monotonic(), self._accuracy(self._logits("model", self.tested))
        model = self.modules["model"].cpu()
        assert isinstance(model, NonlocalHead)
        adapt(model, self.material(), self.trained["model"], self.recipe)
        save_atomically(model.state_dict(), self.folder / BEST)
        model.to(self.device)
        about = {"test_accuracy_before": before, "encodings": [each.name for each in ENCODINGS]}
        return {"adapted": about | {"seconds": round(time.monotonic() - start)}}

    def material(self) -> Material:
        """Returns the features of all clips, also of them encoded."""
        return Material(self.views, self.encoded, self.labels)

    def _encoded(self) -> list[Features]:
        parts = zip(("train", "val"), self.splits, strict=True)
        of_part = [[self.cache.encoded(name, clips, each) for each in ENCODINGS] for name, clips in parts]
        return [np.concatenate(each) for each in zip(*of_part, strict=True)]

    def _accuracy(self, logits: Tensor) -> float:
        return round(float((logits.argmax(-1) == self.labels[self.tested]).float().mean()), 5)

    @torch.no_grad()
    def _logits(self, name: str, clips: Indices) -> Tensor:
        model = self.modules[name].eval()
        logits: Tensor = model(self._as_input(self.views[0][clips]))[0]
        return logits.cpu()

    def _as_input(self, features: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(features).to(self.device).float()


def outer_parts(train: Clips, val: Clips, fold: int, folds: int, seed: int) -> tuple[Indices, Indices]:
    """Returns indices, into train and val concatenated, of the training and of the test clips; see ``VideoData.fold``."""
    everything = np.arange(len(train) + len(val))
    if fold < 0:
        return everything[: len(train)], everything[len(train) :]
    of_clip = grouped_folds(np.concatenate((train.labels, val.labels)), np.concatenate((train.sources, val.sources)), folds, seed)
    return everything[of_clip != fold], everything[of_clip == fold]


def _margins(logits: Tensor) -> list[float]:
    """Returns the margins of the second class over the first."""
    return [round(float(each), 5) for each in logits[:, 1] - logits[:, 0]]
