# SPDX-License-Identifier: Apache-2.0
"""The training of an image classifier, CBAM or its twin without attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from attnserve_export.models.cbam import Cbam, CbamConfig
from attnserve_export.recipe import ClassificationRecipe
from attnserve_export.training.accelerated import Recorded, set_rate
from attnserve_export.training.classification.data import Images, Pixels, changed, hold_back, read_images, training_views
from attnserve_export.training.files import save_atomically
from attnserve_export.training.run import BEST, TrainingRun, cosine_rate, decay_groups
from attnserve_export.training.views import SMALL, cleaned

_EVALUATION_BATCH = 500


class ClassificationTrainer(TrainingRun[ClassificationRecipe]):
    """Selects the epoch by the accuracy on images that are held back from the training split; reports val."""

    makers = 3

    def prepare(self) -> None:
        """See :class:`TrainingRun`."""
        recipe = self.recipe
        self.trained, self.held = hold_back(read_images(self.data_root, "train"), recipe.data.held_back)
        self.model = Cbam(self.sizes(CbamConfig, len(self.trained.classes))).to(self.device)
        options = recipe.optimizer
        groups = decay_groups(self.model, options.weight_decay)
        self.optimizer = torch.optim.SGD(groups, lr=options.peak_learning_rate, momentum=0.9, nesterov=True)
        self.modules, self.optimizers = {"model": self.model}, {"sgd": self.optimizer}
        self._step = Recorded(self._one_step, self.device, self.console.print)
        self.updates_per_epoch = len(self.trained) // recipe.schedule.batch

    def batch(self, epoch: int, index: int, rng: np.random.Generator) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """Views of the images of an update (B, 32, 32, 3), and their labels (B)."""
        size = self.recipe.schedule.batch
        drawn = self.trained.take(self.order(epoch, len(self.trained))[index * size : (index + 1) * size])
        return training_views(drawn.pixels, self.recipe.data.altered, rng), drawn.labels

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        """See :class:`TrainingRun`."""
        recipe = self.recipe
        pixels, labels = self.made_batch(epoch, index, rng)
        warmup = recipe.optimizer.warmup_epochs / recipe.schedule.epochs
        set_rate(self.optimizer, cosine_rate(recipe.optimizer.peak_learning_rate, self.progress_of(epoch, index + 1), warmup))
        self.model.train()
        loss, accuracy = self._step(torch.from_numpy(pixels), torch.from_numpy(labels))
        return {"loss": loss, "accuracy": accuracy}

    def _one_step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        logits, _ = self.model(pixels)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return torch.stack((loss.detach(), (logits.detach().argmax(-1) == labels).float().mean()))

    def evaluate(self, epoch: int) -> Mapping[str, float]:
        """See :class:`TrainingRun`."""
        return {"held_back_accuracy": float(self._is_right(self.held).mean())}

    def score(self, line: Mapping[str, Any]) -> float:
        """See :class:`TrainingRun`."""
        return float(line["held_back_accuracy"])

    def conclude(self) -> dict[str, Any]:
        """Returns the accuracy on val, unchanged and without compression artefacts; ``val.pt``: whether each image is correct."""
        self.model.load_state_dict(torch.load(self.folder / BEST, weights_only=True, map_location=self.device))
        val = read_images(self.data_root, "val")
        is_right = self._is_right(val)
        save_atomically(is_right, self.folder / "val.pt")
        return {
            "classes": list(self.trained.classes),
            "val_accuracy": round(float(is_right.mean()), 5),
            "val_accuracy_cleaned": {
                name: round(float(self._is_right(changed(val, change)).mean()), 5) for name, change in cleaned(SMALL).items()
            },
        }

    @torch.no_grad()
    def _is_right(self, images: Images) -> Tensor:
        self.model.eval()
        found: list[Tensor] = []
        for start in range(0, len(images), _EVALUATION_BATCH):
            part = slice(start, start + _EVALUATION_BATCH)
            logits, _ = self.model(torch.from_numpy(images.pixels[part]).to(self.device))
            found.append(logits.argmax(-1).cpu() == torch.from_numpy(images.labels[part]))
        return torch.cat(found).float()
