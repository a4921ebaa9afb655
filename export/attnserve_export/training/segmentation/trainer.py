# SPDX-License-Identifier: Apache-2.0
"""The training of a segmentation model, Disentangled Non-local or a twin; with its trunk, or on cached trunk features."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.models.disentangled_nonlocal import DisentangledNonLocal, DisentangledNonLocalConfig
from attnserve_export.recipe import RecipeError, SegmentationRecipe
from attnserve_export.training.accelerated import Recorded, set_rate
from attnserve_export.training.files import save_atomically
from attnserve_export.training.run import BEST, TrainingRun, cosine_rate
from attnserve_export.training.segmentation.data import CLASSES, VOID, Cut, Frames, Pixels, hold_back, read_frames, shares
from attnserve_export.training.segmentation.features import FeatureCache
from attnserve_export.training.segmentation.scores import Confusion, class_ious, confusion, mean_iou
from attnserve_export.training.views import PHOTOS, cleaned

FEATURES = "features-camvid"
"""Folder of the cached features, in the folder of all runs."""
VAL = "val.pt"
"""Confusion matrix of each val frame, (frames, classes, classes)."""
_EVALUATION_BATCH = 4


class SegmentationTrainer(TrainingRun[SegmentationRecipe]):
    """Selects the epoch by the mean IoU on frames held back from the training split; reports val."""

    makers = 4

    def prepare(self) -> None:
        """See :class:`TrainingRun`."""
        recipe, data = self.recipe, self.recipe.data
        frames = read_frames(self.data_root, "train")
        try:
            self._trained_indices, held = hold_back(frames.names, data.drive, data.held_back, data.gap)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        self.trained, self.held = frames.take(self._trained_indices), frames.take(held)
        self.model = DisentangledNonLocal(self.sizes(DisentangledNonLocalConfig, VOID))
        self.model.load_imagenet()
        if data.cached_views:
            self.model.encoder.requires_grad_(False)
            height, width = frames.labels.shape[1:]
            cut = Cut((width, height), data.scale, data.altered)
            cache = FeatureCache(self.model, frames, cut, self.folder.parent / FEATURES, self.device)
            self.views = [cache.view(number) for number in range(data.cached_views)]
        layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self._class_weights = self._tensor(class_weights(shares(self.trained.labels), recipe.balance))
        self.optimizer = self._optimizer()
        self.modules, self.optimizers = {"model": self.model}, {"adamw": self.optimizer}
        self._step = Recorded(self._one_step, self.device, self.console.print)
        self.updates_per_epoch = data.passes * (len(self.trained) // recipe.schedule.batch)

    def _optimizer(self) -> torch.optim.Optimizer:
        options = self.recipe.optimizer
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((name.startswith("encoder."), parameter.dim() > 1), []).append(parameter)
        return torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "weight_decay": options.weight_decay if is_matrix else 0.0,
                    "factor": options.trunk_rate if is_trunk else 1.0,
                }
                for (is_trunk, is_matrix), parameters in groups.items()
            ],
            lr=options.peak_learning_rate,
            fused=True,
        )

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        """See :class:`TrainingRun`."""
        options, schedule = self.recipe.optimizer, self.recipe.schedule
        warmup = options.warmup_epochs / schedule.epochs
        set_rate(self.optimizer, cosine_rate(options.peak_learning_rate, self.progress_of(epoch, index + 1), warmup))
        self.model.train()
        loss, norm, accuracy = self._step(*map(torch.from_numpy, self.made_batch(epoch, index, rng)))
        return {"loss": loss, "norm": norm, "accuracy": accuracy}

    def _one_step(self, labels: Tensor, *inputs: Tensor) -> Tensor:
        labels = labels.long()
        logits = self._logits(labels, inputs)
        loss = functional.cross_entropy(logits, labels, self._class_weights, ignore_index=VOID)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        is_known = labels != VOID
        is_right = (logits.detach().argmax(1) == labels) & is_known
        return torch.stack((loss.detach(), norm, is_right.sum() / is_known.sum()))

    def _logits(self, labels: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """(B, classes, h, w) for labels (B, h, w); the inputs are pictures, or the trunk's outputs."""
        if not self.recipe.data.cached_views:
            found: Tensor = self.model(inputs[0])[0]
            return found
        whole = torch.ones(labels.shape, dtype=torch.bool, device=self.device)
        logits, _ = self.model.segment([each.float() for each in inputs], whole)
        return logits[:, :, : labels.shape[1], : labels.shape[2]]

    def _drawn(self, epoch: int, index: int) -> npt.NDArray[np.int64]:
        """Returns the training frames of an update; each pass has its own order."""
        size = self.recipe.schedule.batch
        number, place = divmod(index, len(self.trained) // size)
        order = self.order(epoch * self.recipe.data.passes + number, len(self.trained))
        return order[place * size : (place + 1) * size]

    def batch(self, epoch: int, index: int, rng: np.random.Generator) -> list[npt.NDArray[Any]]:
        """The labels of a view of each frame of an update (B, h, w); and the views (B, h, w, 3), or the trunk's outputs."""
        data, frames = self.recipe.data, self._drawn(epoch, index)
        if data.cached_views:
            drawn = [
                (self.views[view], at)
                for view, at in zip(rng.integers(data.cached_views, size=len(frames)), self._trained_indices[frames], strict=True)
            ]
            levels = [np.stack([view.levels[level][at] for view, at in drawn]) for level in range(len(drawn[0][0].levels))]
            return [np.stack([view.labels[at] for view, at in drawn]), *levels]
        cut = Cut(data.crop, data.scale, data.altered)
        seeds = rng.integers(1 << 62, size=len(frames)).tolist()
        views = [
            cut.view(self.trained.pixels[at], self.trained.labels[at], random.Random(seed))
            for at, seed in zip(frames, seeds, strict=True)
        ]
        return [np.stack([each[1] for each in views]), np.stack([each[0] for each in views])]

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def evaluate(self, epoch: int) -> Mapping[str, float]:
        """See :class:`TrainingRun`."""
        return {"held_back_miou": mean_iou(self._confusions(self.held))}

    def score(self, line: Mapping[str, Any]) -> float:
        """See :class:`TrainingRun`."""
        return float(line["held_back_miou"])

    def conclude(self) -> dict[str, Any]:
        """Returns mean IoU on val, unchanged and without compression artefacts; writes the confusion matrices to ``val.pt``."""
        self.model.load_state_dict(torch.load(self.folder / BEST, weights_only=True, map_location=self.device))
        frames = read_frames(self.data_root, "val")
        found = self._confusions(frames)
        save_atomically({"confusions": torch.from_numpy(found), "names": list(frames.names)}, self.folder / VAL)
        ious = class_ious(found.sum(0))
        of_cleaned = {
            name: round(mean_iou(self._confusions(_changed(frames, change))), 2) for name, change in cleaned(PHOTOS).items()
        }
        return {
            "classes": list(CLASSES),
            "val_miou": round(mean_iou(found), 2),
            "val_ious": {name: round(float(iou), 2) for name, iou in zip(CLASSES, ious, strict=True)},
            "val_miou_cleaned": of_cleaned,
        }

    @torch.no_grad()
    def _confusions(self, frames: Frames) -> Confusion:
        self.model.eval()
        found: list[Confusion] = []
        for start in range(0, len(frames), _EVALUATION_BATCH):
            part = slice(start, start + _EVALUATION_BATCH)
            logits, _ = self.model(self._tensor(frames.pixels[part]))
            maps = logits.argmax(1).cpu().numpy()
            found += [confusion(*pair) for pair in zip(maps, frames.labels[part], strict=True)]
        return np.stack(found)


def class_weights(share: npt.NDArray[np.float64], balance: float) -> npt.NDArray[np.float32]:
    """Returns share ** -balance, scaled so that the mean weight of a pixel is 1; 0 for a class that does not occur."""
    weights = np.where(share > 0, np.maximum(share, 1e-12) ** -balance, 0)
    scaled: npt.NDArray[np.float32] = (weights / (weights * share).sum()).astype(np.float32)
    return scaled


def _changed(frames: Frames, change: Callable[[Image.Image], Image.Image]) -> Frames:
    pixels: Pixels = np.stack([np.asarray(change(Image.fromarray(each))) for each in frames.pixels])
    return Frames(frames.names, pixels, frames.labels)
