# SPDX-License-Identifier: Apache-2.0
"""The second phase of a video classifier's training: its answer to an encoded clip becomes that to the clip's frames.

The weight of the consistency was selected on training clips (``select_adaptation.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from attnserve_export.models.nonlocal_video import CHANNELS, NonlocalHead
from attnserve_export.recipe import VideoRecipe
from attnserve_export.training.accelerated import set_rate
from attnserve_export.training.run import cosine_rate, decay_groups
from attnserve_export.training.video.data import Indices
from attnserve_export.training.video.features import Features

WARMUP = 0.05
"""Share of the updates in which the learning rate rises."""
_LEAST_SIGNAL = 0.001
"""Added to the variance of the clips' mean features in each direction."""
_LEAST_VARIANCE = 0.05
"""Added to the variance of a batch's margins, by which their differences are divided."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Material:
    """Features of the same clips: of their views, the unchanged first, and of them through video files; and their labels (N)."""

    views: Sequence[Features]
    encoded: Sequence[Features]
    labels: Tensor


def adapt(head: NonlocalHead, material: Material, trained: Indices, recipe: VideoRecipe) -> None:
    """Trains a head further, in place, and leaves it in evaluation mode.

    The head no longer reads the channels' directions that encoding changes most (:func:`encoding_directions`). The loss is the
    cross-entropy of views and encoded clips plus :func:`inconsistency` of unchanged and encoded clips. The result depends on the
    head, the material and the recipe only.

    Args:
        head: a trained one.
        material: all clips.
        trained: the clips to train on.
        recipe: has an adaptation.
    """
    options = recipe.adaptation
    assert options is not None
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 1])
    updates = -(-len(trained) // recipe.schedule.batch)
    optimizer = torch.optim.AdamW(decay_groups(head, recipe.optimizer.weight_decay), lr=options.peak_learning_rate, fused=True)
    directions = encoding_directions(head, material, trained, options.directions)
    forget(head, directions)
    everything, total, parts = [*material.views, *material.encoded], options.epochs * updates, list[npt.NDArray[np.int64]]()
    for step in range(total):
        if step % updates == 0:
            parts = np.array_split(rng.permutation(trained), updates)
        chosen = parts[step % updates]
        set_rate(optimizer, cosine_rate(options.peak_learning_rate, (step + 1) / total, WARMUP))
        drawn, plain, encoded = (_drawn(each, chosen, rng) for each in (everything, material.views[:1], material.encoded))
        head.train()
        logits = head(drawn)[0]
        loss = functional.cross_entropy(logits, material.labels[chosen], label_smoothing=recipe.label_smoothing)
        head.eval()  # without dropout, whose noise would count as inconsistency
        loss = loss + options.consistency * inconsistency(*head(torch.cat((plain, encoded)))[0].chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        forget(head, directions)


@torch.no_grad()
def encoding_directions(head: NonlocalHead, material: Material, trained: Indices, count: int) -> Tensor:
    """Returns the directions of the channels that encoding changes most, as orthonormal columns (CHANNELS, count).

    With d the change of a clip's mean features by encoding, z the mean features of a clip, both normalised as the head does it,
    and L Lᵀ the covariance of z: L times the principal directions of L⁻¹ d, whose changes are large relative to how clips
    differ.

    Args:
        head: gives the normalisation.
        material: all clips.
        trained: the clips that are measured.
        count: at least 0, at most CHANNELS.
    """
    variance = head.input_norm.running_var
    assert variance is not None
    scale = torch.sqrt(variance + head.input_norm.eps)

    def means(features: Features) -> Tensor:
        return torch.from_numpy(features[trained]).float().flatten(1, 3).mean(1) / scale

    plain = means(material.views[0])
    changes = torch.cat([means(each) - plain for each in material.encoded])
    centred = plain - plain.mean(0)
    signal = centred.T @ centred / len(plain) + _LEAST_SIGNAL * torch.eye(CHANNELS)
    spread = torch.linalg.cholesky(signal)
    whitened = torch.linalg.solve_triangular(spread, changes.T, upper=False)
    _, vectors = torch.linalg.eigh(whitened @ whitened.T)  # ascending
    found: Tensor = torch.linalg.qr(spread @ vectors[:, CHANNELS - count :])[0]
    return found


@torch.no_grad()
def forget(head: NonlocalHead, directions: Tensor) -> None:
    """Takes directions of the channels, orthonormal columns (CHANNELS, count), out of what the head reads."""
    weight = head.reduce.weight
    weight.sub_(weight @ directions @ directions.T)


def inconsistency(ours: Tensor, others: Tensor) -> Tensor:
    """Returns the mean squared difference of the margins of two forms of the same clips, by the variance of all margins.

    The variance makes it independent of the scale of the margins: a model does not get a lower value by probabilities near 0.5.

    Args:
        ours: logits, (B, 2).
        others: those of the same clips in another form, (B, 2).
    """
    first, second = (each[:, 1] - each[:, 0] for each in (ours, others))
    return (first - second).square().mean() / (torch.cat((first, second)).var() + _LEAST_VARIANCE)


def _drawn(forms: Sequence[Features], clips: Indices, rng: np.random.Generator) -> Tensor:
    """Returns one form of each clip, drawn at random."""
    of_clip = rng.integers(0, len(forms), len(clips))
    return torch.from_numpy(np.stack([forms[form][clip] for form, clip in zip(of_clip, clips, strict=True)])).float()


@torch.no_grad()
def probabilities(head: NonlocalHead, features: Features, clips: Indices) -> Array:
    """Returns the probability of a fight, (clips), of a head in evaluation mode."""
    logits: Tensor = head(torch.from_numpy(features[clips]).float())[0]
    found: Array = logits.softmax(-1)[:, 1].numpy().astype(np.float64)
    return found


def skew(plain: Array, encoded: Array) -> dict[str, float]:
    """Returns the percentage of clips with the same class, and the mean difference of the probabilities, both (N)."""
    same = np.equal(plain > 0.5, encoded > 0.5).mean()
    return {"same_class": round(100 * float(same), 1), "mean_difference": round(float(np.abs(plain - encoded).mean()), 4)}
