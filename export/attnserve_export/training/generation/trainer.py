# SPDX-License-Identifier: Apache-2.0
"""The training of a class-conditional image generator, SAGAN or its twin without attention."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from attnserve_export.models.sagan import (
    Discriminator,
    Generator,
    SaganConfig,
    ShippedGenerator,
    average_into,
    fix_statistics,
)
from attnserve_export.recipe import GenerationRecipe
from attnserve_export.training.accelerated import Recorded, set_rate
from attnserve_export.training.classification.data import Pixels, hold_back, read_images
from attnserve_export.training.generation.data import deblocked_once
from attnserve_export.training.run import TrainingRun

SAMPLES = "samples"
"""Folder of the sample grids in a run's folder: one image for each epoch, of the same latent vectors."""
_COLUMNS = 8
_STATISTICS_BATCHES = 32
_SCORED = 250
"""Number of images that the discriminator scores at once."""
_HELD = 1000
"""Number of training images that the discriminator is not trained on: the difference of its scores between these and the others
shows overfitting."""


def hinge_losses(on_real: Tensor, on_fake: Tensor) -> tuple[Tensor, Tensor]:
    """L_D and L_G, equation 4, from the discriminator's scores of real and of generated images (B)."""
    return functional.relu(1 - on_real).mean() + functional.relu(1 + on_fake).mean(), -on_fake.mean()


class GenerationTrainer(TrainingRun[GenerationRecipe]):
    """Trains both networks with alternating updates; keeps the moving average of the generator after the last epoch.

    The judge of the samples is not used: see ``judge.py`` for the figures of a finished run.
    """

    def prepare(self) -> None:
        """See :class:`TrainingRun`."""
        recipe, options = self.recipe, self.recipe.optimizer
        images = read_images(self.data_root, "train")
        if recipe.data.deblocked:
            self.console.print(f"removing block artefacts of {len(images)} images, unless cached")
            processes = 1 if self.device.type == "cpu" else os.cpu_count() or 1
            images = replace(images, pixels=deblocked_once(images.pixels, self.folder.parent, processes))
        images, held = hold_back(images, _HELD)
        self.pixels, self.labels = images.pixels, images.labels
        self.held_pixels, self.held_labels = held.pixels, held.labels
        self.config = self.sizes(SaganConfig, len(images.classes))
        self.classes = images.classes
        self.generator = Generator(self.config)
        torch.manual_seed(recipe.seed)  # the generator's number of draws depends on its attention
        self.discriminator = Discriminator(self.config)
        self.average = Generator(self.config, spectral=False)
        average_into(self.average, self.generator, 0.0)
        self.modules = {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
        for module in self.modules.values():
            module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        betas = (options.beta1, options.beta2)
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), options.generator_rate, betas, fused=True)
        self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters(), options.discriminator_rate, betas, fused=True)
        self.optimizers = {"generator": self.generator_adam, "discriminator": self.discriminator_adam}
        self._step = Recorded(self._one_step, self.device, self.console.print)
        self.updates_per_epoch = len(self.labels) // recipe.schedule.batch

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        """Makes one step of the discriminator, then one of the generator with the same images; hinge loss (equation 4)."""
        size = self.recipe.schedule.batch
        chosen = self.order(epoch, len(self.labels))[index * size : (index + 1) * size]
        mirrored = torch.from_numpy(rng.random(size) < 0.5)
        labels = torch.from_numpy(rng.integers(self.config.num_classes, size=size))
        latent = torch.randn(size, self.config.latent)
        self.set_rates(self.progress_of(epoch, index))
        for module in (self.generator, self.discriminator):
            module.train()
        decay = torch.tensor(self._average_decay(epoch, index))
        pixels, real_labels = torch.from_numpy(self.pixels[chosen]), torch.from_numpy(self.labels[chosen])
        figures = self._step(pixels, mirrored, real_labels, latent, labels, decay)
        return dict(zip(("discriminator_loss", "generator_loss", "real_seen", "fake_seen"), figures, strict=True))

    def _one_step(
        self, pixels: Tensor, mirrored: Tensor, real_labels: Tensor, latent: Tensor, labels: Tensor, decay: Tensor
    ) -> Tensor:
        real, size = _images(pixels, mirrored), len(pixels)
        with self._autocast():
            fake, _ = self.generator(latent, labels)
            scores = self.discriminator(torch.cat((real, fake.detach())), torch.cat((real_labels, labels)))
        on_real, on_fake = scores[:size], scores[size:]
        loss, _ = hinge_losses(on_real, on_fake)
        self.discriminator_adam.zero_grad()
        loss.backward()
        self.discriminator_adam.step()
        generator_loss = self._step_generator(fake, labels)
        average_into(self.average, self.generator, decay)
        return torch.stack((loss, generator_loss, (on_real > 0).float().mean(), (on_fake < 0).float().mean())).detach()

    def _step_generator(self, fake: Tensor, labels: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        try:
            with self._autocast():
                scores = self.discriminator(fake, labels)
            _, loss = hinge_losses(scores, scores)
            self.generator_adam.zero_grad()
            loss.backward()
            self.generator_adam.step()
        finally:
            self.discriminator.requires_grad_(True)
        return loss

    def evaluate(self, epoch: int) -> Mapping[str, float]:
        """Returns both gammas and how well real and generated images are separated; saves a grid of samples.

        ``trained_rank`` and ``held_back_rank``: the share of pairs of a real and a generated image in which the real one has the
        higher score, for real images that were and were not trained on. Their difference measures overfitting.
        """
        fix_statistics(self.average, _STATISTICS_BATCHES, self.recipe.schedule.batch, self.recipe.seed)
        self._save_samples(epoch)
        count = len(self.held_labels)
        latent = torch.randn(count, self.config.latent, generator=torch.Generator().manual_seed(self.recipe.seed))
        fakes = self._scores(draw(self.average, latent, torch.from_numpy(self.held_labels)), self.held_labels)
        trained, held = self._scores(self.pixels[:count], self.labels[:count]), self._scores(self.held_pixels, self.held_labels)
        ranks = {"trained_rank": _rank(trained, fakes), "held_back_rank": _rank(held, fakes)}
        networks: dict[str, Generator | Discriminator] = {"generator": self.generator, "discriminator": self.discriminator}
        gammas = {
            f"{name}_gamma": float(each.attention.gamma.detach()) for name, each in networks.items() if each.attention is not None
        }
        return {**gammas, **ranks}

    @torch.no_grad()
    def _scores(self, pixels: Pixels, labels: np.ndarray[Any, Any]) -> Tensor:
        """Returns the discriminator's scores of images (N, 32, 32, 3): (N)."""
        self.discriminator.eval()
        real = _images(self._on_device(pixels), torch.zeros(len(labels), dtype=torch.bool, device=self.device))
        with self._autocast():
            parts = zip(real.split(_SCORED), self._on_device(labels).split(_SCORED), strict=True)
            return torch.cat([self.discriminator(image, label) for image, label in parts])

    def weights(self) -> dict[str, Tensor]:
        """Returns the moving average with fixed statistics, for :class:`~attnserve_export.models.sagan.ShippedGenerator`."""
        return self.average.state_dict()

    def conclude(self) -> dict[str, Any]:
        """See :class:`TrainingRun`."""
        return {"classes": list(self.classes)}

    def set_rates(self, progress: float) -> None:
        """Sets both learning rates: constant, then falling linearly to zero at ``progress`` 1."""
        options = self.recipe.optimizer
        share = min(1.0, (1 - progress) / (1 - options.constant))
        for optimizer, peak in (
            (self.generator_adam, options.generator_rate),
            (self.discriminator_adam, options.discriminator_rate),
        ):
            set_rate(optimizer, peak * share)

    def _average_decay(self, epoch: int, index: int) -> float:
        """Returns the decay, which is lower at first, when the weights change fast."""
        done = epoch * self.updates_per_epoch + index
        return min(self.recipe.optimizer.average_decay, (1 + done) / (10 + done))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def _on_device(self, values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _save_samples(self, epoch: int) -> None:
        classes = self.config.num_classes
        latent = torch.randn(classes * _COLUMNS, self.config.latent, generator=torch.Generator().manual_seed(self.recipe.seed))
        labels = torch.arange(classes).repeat_interleave(_COLUMNS)
        pixels = draw(self.average, latent, labels)
        rows = pixels.reshape(classes, _COLUMNS, *pixels.shape[1:]).swapaxes(1, 2)
        picture = Image.fromarray(rows.reshape(classes * pixels.shape[1], -1, 3))
        path = self.folder / SAMPLES / f"epoch-{epoch + 1:03d}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)


def _images(pixels: Tensor, is_mirrored: Tensor) -> Tensor:
    """(B, 32, 32, 3) pixels -> (B, 3, 32, 32) from -1 to 1, channels last in memory, some of them mirrored."""
    views = torch.where(is_mirrored[:, None, None, None], pixels.flip(2), pixels)
    return (views.float() / 127.5 - 1).permute(0, 3, 1, 2)


def _rank(real: Tensor, fake: Tensor) -> float:
    return float((real[:, None] > fake).float().mean())


@torch.no_grad()
def draw(average: Generator, latent: Tensor, labels: Tensor, batch: int = 100) -> Pixels:
    """Draws images from a generator with fixed statistics: latent (N, latent), class numbers (N) -> uint8 (N, 32, 32, 3)."""
    device = next(average.parameters()).device
    shipped = ShippedGenerator(average)
    parts = []
    for z, y in zip(latent.split(batch), labels.split(batch), strict=True):
        pixels, _ = shipped(z.to(device), y.to(device), torch.zeros_like(y).to(device))
        parts.append(pixels.cpu().numpy())
    return np.concatenate(parts)


def read_generator(path: Path, config: SaganConfig) -> Generator:
    """Reads the generator from a run's ``best.pt``, in evaluation mode."""
    average = Generator(config, spectral=False)
    average.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return average.eval()
