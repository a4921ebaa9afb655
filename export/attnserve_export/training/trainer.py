# SPDX-License-Identifier: Apache-2.0
"""The training of a translation model: epochs, checkpoints, resuming, weight averaging, selection on val.

A run has its own folder: ``tokenizer.model``, ``checkpoint.pt`` (all state for resuming), ``epochs/NNN.pt`` (weights
after each epoch, for averaging), ``log.jsonl`` (a line an epoch) and at the end ``best.pt`` and ``summary.json``.
A run that was killed continues from its last checkpoint. Without sampled segmentations (BPE dropout) its results are then
bit-identical; with them, they are another draw of the same distribution, since SentencePiece's generator cannot be seeded.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, cast

import sacrebleu
import sentencepiece
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from attnserve_export.layers.dropout import PooledDropout
from attnserve_export.models.interface import TranslationModel
from attnserve_export.recipe import Recipe, RecipeError
from attnserve_export.registry import build_model
from attnserve_export.training.data import PairBatches, read_lines, read_pairs, train_tokenizer
from attnserve_export.training.decode import greedy_translations
from attnserve_export.training.files import save_atomically
from attnserve_export.training.loss import SmoothedCrossEntropy


class Trainer:
    """Runs a recipe in ``folder``; :meth:`run` may be called again after a kill."""

    def __init__(self, recipe: Recipe, data_root: Path, folder: Path, device: str = "cpu", taught: Path | None = None) -> None:
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        self._data_root, self._taught = data_root, taught
        self._console = Console(stderr=True)
        self.update = 0
        self._is_prepared = False

    def run(self, epochs: int | None = None) -> dict[str, Any]:
        """Trains up to ``epochs`` (default: the recipe's), then selects on val. Returns the summary, which is also written.

        Raises:
            RecipeError: ``epochs`` exceeds the recipe's, and the recipe ends with annealing.
        """
        last = epochs or self.recipe.schedule.epochs
        if self.recipe.annealing is not None and last > self.recipe.schedule.epochs:
            raise RecipeError(f"the recipe's annealing ends with epoch {self.recipe.schedule.epochs}: no further epoch is possible")
        self.prepare()
        for epoch in range(self.epoch, last):
            self._run_epoch(epoch, last)
        return self.select()

    @property
    def _typed(self) -> TranslationModel:
        return cast(TranslationModel, self.model)

    def prepare(self) -> None:
        """Reads the data, creates model and optimizer, loads the last checkpoint. A second call (by :meth:`run`) has no effect."""
        if self._is_prepared:
            return
        self._is_prepared = True
        recipe, languages = self.recipe, (self.recipe.data.source_language, self.recipe.data.target_language)
        (self.folder / "epochs").mkdir(parents=True, exist_ok=True)
        train = read_pairs(self._data_root, "train", *languages)
        taught = self._read_taught(len(train))
        self.val = read_pairs(self._data_root, "val", *languages)
        model_file = self.folder / "tokenizer.model"
        if not model_file.exists():
            train_tokenizer(train, model_file, recipe.tokenizer.vocab_size, recipe.tokenizer.model_type)
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        limits: dict[str, Any] = {"batch_tokens": recipe.schedule.batch_tokens, "max_pieces": recipe.data.max_pieces}
        self.train_batches = PairBatches(
            train,
            self.tokenizer,
            sampling=(recipe.tokenizer.sampling_alpha, recipe.tokenizer.sampled_share),
            seed=recipe.seed,
            taught=taught,
            **limits,
        )
        self.val_batches = PairBatches(self.val, self.tokenizer, **limits)
        torch.manual_seed(recipe.seed)
        self.model = build_model(recipe.architecture, self.tokenizer.get_piece_size(), recipe.model).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=1.0,
            betas=(0.9, recipe.optimizer.beta2),
            weight_decay=recipe.optimizer.weight_decay,
            fused=True,
        )
        self.loss = SmoothedCrossEntropy(recipe.optimizer.label_smoothing)
        self.epoch, self.update, self._batch, self._running = 0, 0, 0, (0.0, 0)
        self._anneals_from: int | None = None
        if (self.folder / "checkpoint.pt").exists():
            self._resume()

    def _read_taught(self, num_pairs: int) -> list[str]:
        """Reads the teacher's translations, if the recipe has a teacher.

        Raises:
            RecipeError: they are missing, their number differs from the training pairs', or the recipe has no teacher.
        """
        distillation = self.recipe.distillation
        if distillation is None or self._taught is None:
            if distillation is not None:
                raise RecipeError(
                    f"the recipe learns from {distillation.teacher}: give its translations of the training sources, line by line, "
                    f"with --taught (attnserve translate --model {distillation.teacher} --beam-size 2 < SOURCES > FILE)"
                )
            if self._taught is not None:
                raise RecipeError("the recipe has no teacher: leave out --taught")
            return []
        lines = read_lines(self._taught)
        if len(lines) != num_pairs:
            raise RecipeError(f"{self._taught} has {len(lines)} lines, the training split {num_pairs}")
        return lines

    def _run_epoch(self, epoch: int, last: int) -> None:
        distillation = self.recipe.distillation
        is_taught = distillation is not None and epoch + 1 >= distillation.first_epoch
        batches = self.train_batches.epoch(epoch, distillation.share if distillation is not None and is_taught else 0.0)
        annealing = self.recipe.annealing
        is_annealed = annealing is not None and epoch + 1 >= annealing.first_epoch
        if annealing is not None and is_annealed:
            set_dropout(self.model, annealing.dropout * self._annealed_share(epoch))
        self.model.train()
        started = saved = time.monotonic()
        columns = (
            TextColumn("epoch {task.fields[epoch]}/{task.fields[last]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            task = progress.add_task("", total=len(batches), completed=self._batch, epoch=epoch + 1, last=last, loss=0.0)
            for batch in batches[self._batch :]:
                rate = self._annealed_rate(epoch + self._batch / len(batches)) if is_annealed else self._rate(self.update + 1)
                nll, num_tokens = self.one_update(batch.src.to(self.device), batch.tgt.to(self.device), rate)
                self._running = (self._running[0] + nll, self._running[1] + num_tokens)
                self._batch += 1
                progress.update(task, advance=1, loss=self._running[0] / self._running[1])
                if time.monotonic() - saved > self.recipe.schedule.checkpoint_seconds:
                    self._save_checkpoint()
                    saved = time.monotonic()
        self.epoch, self._batch = epoch + 1, 0
        train_loss, self._running = self._running[0] / self._running[1], (0.0, 0)
        save_atomically(self.model.state_dict(), self.folder / "epochs" / f"{self.epoch:03d}.pt")
        val_nll = self._val_nll()
        self._save_checkpoint()
        line = {
            "epoch": self.epoch,
            "updates": self.update,
            "train_nll": round(train_loss, 4),
            "val_nll": round(val_nll, 4),
            "seconds": round(time.monotonic() - started, 1),
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self._console.print(" ".join(f"{key} {value}" for key, value in line.items()))

    def _rate(self, update: int) -> float:
        """Returns the learning rate of an update, counted from 1, before annealing."""
        options = self.recipe.optimizer
        progress = update / options.warmup_updates
        return options.peak_learning_rate * min(progress, 1 / math.sqrt(progress))

    def _annealed_share(self, epochs: float) -> float:
        """Returns the factor after so many epochs: 1 before the first annealed update, then falling linearly to 0."""
        assert self.recipe.annealing is not None
        first, last = self.recipe.annealing.first_epoch - 1, self.recipe.schedule.epochs
        return max(0.0, 1 - (epochs - first) / (last - first))

    def _annealed_rate(self, epochs: float) -> float:
        """Returns the learning rate after so many epochs: a share of the rate of the first annealed update."""
        first = self.update if self._anneals_from is None else self._anneals_from
        self._anneals_from = first
        return self._rate(first + 1) * self._annealed_share(epochs)

    def one_update(self, src: torch.Tensor, tgt: torch.Tensor, rate: float) -> tuple[float, int]:
        """Makes one step of the optimizer; returns the negative log-likelihood in nats, and its number of tokens."""
        self.update += 1
        self.optimizer.param_groups[0]["lr"] = rate
        nll, num_tokens = self.loss(self.model(src, tgt[:, :-1]), tgt[:, 1:], self._typed.output_weight)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return nll, num_tokens

    @torch.no_grad()
    def _val_nll(self) -> float:
        self.model.eval()
        sums = [0.0, 0]
        for batch in self.val_batches.in_order():
            src, tgt = batch.src.to(self.device), batch.tgt.to(self.device)
            nll, count = self.loss(self.model(src, tgt[:, :-1]), tgt[:, 1:], self._typed.output_weight, backward=False)
            sums[0], sums[1] = sums[0] + nll, sums[1] + count
        return sums[0] / sums[1]

    def select(self) -> dict[str, Any]:
        """Averages the weights of the last epochs, for each number in the recipe, and keeps the mean with the best val BLEU."""
        files = sorted((self.folder / "epochs").glob("*.pt"))
        references = [[target for _, target in self.val]]
        scores: dict[str, float] = {}
        for width in sorted({min(width, len(files)) for width in self.recipe.schedule.average_last}):
            weights = average([torch.load(file, weights_only=True) for file in files[-width:]])
            self.model.load_state_dict(weights)
            self.model.eval()
            hypotheses = greedy_translations(self._typed, self.tokenizer, [source for source, _ in self.val])
            score = round(sacrebleu.corpus_bleu(hypotheses, references, lowercase=True).score, 2)
            if score > max(scores.values(), default=-1.0):  # the first of equal scores, as in the summary
                save_atomically(weights, self.folder / "best.pt")
            scores[str(width)] = score
        best = max(scores, key=lambda width: scores[width])
        log = [json.loads(line) for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        summary = {
            "epochs": len(files),
            "updates": self.update,
            "averaged_epochs": int(best),
            "val_bleu_lc_greedy": scores[best],
            "val_bleu_lc_by_average": scores,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "train_seconds": round(sum(line["seconds"] for line in log)),
            "last_epoch": log[-1],
        }
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        self._console.print(summary)
        return summary

    def _save_checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self._batch,
            "update": self.update,
            "running": list(self._running),
            "anneals_from": self._anneals_from,
            "rng": torch.get_rng_state(),
        }
        save_atomically(state, self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self._batch, self.update = state["epoch"], state["batch"], state["update"]
        self._running = (state["running"][0], state["running"][1])
        self._anneals_from = state.get("anneals_from")
        torch.set_rng_state(state["rng"])
        self._console.print(f"resumed at epoch {self.epoch + 1}, batch {self._batch}")


def set_dropout(model: nn.Module, rate: float) -> None:
    """Sets the rate of all dropout layers whose rate is not 0."""
    PooledDropout.forget_pools()
    for module in model.modules():
        if isinstance(module, PooledDropout) and module.p:
            module.p = rate


def average(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Returns the mean of several weight dictionaries of one architecture."""
    return {name: torch.stack([state[name].double() for state in states]).mean(0).float() for name in states[0]}
