# SPDX-License-Identifier: Apache-2.0
"""The training of a captioning model: epochs over cached features, checkpoints, resuming, selection on held-back photos.

A run has its own folder: ``tokenizer.model``, ``features/`` (see ``features.py``), ``checkpoint.pt``, ``epochs/NNN.pt``,
``log.jsonl`` (a line an epoch) and at the end ``best.pt`` and ``summary.json``. A run that was killed continues from its last
checkpoint and gives bit-identical results.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sacrebleu
import sentencepiece
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from attnserve_export.layers import efficientnet
from attnserve_export.models.show_attend_tell import ShowAttendTell, ShowAttendTellConfig
from attnserve_export.recipe import CaptionRecipe
from attnserve_export.training.captions.data import Photo, hold_back, read_photos, train_vocabulary
from attnserve_export.training.captions.features import FeatureCache, Features
from attnserve_export.training.captions.search import caption_tokens, greedy_tokens
from attnserve_export.training.data import BEGIN_ID, END_ID, pad
from attnserve_export.training.files import save_atomically

_DRAWN_SHARE = 0.5
"""Share of the batches that draw locations for hard attention; the others use the mean (section 4.1: less gradient noise)."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Captions of similar length: their photos, the view of each, and int64 (B, T + 1) with begin and end symbol."""

    photos: list[int]
    views: list[int]
    tgt: Tensor


class CaptionTrainer:
    """Runs a recipe in ``folder``; :meth:`run` may be called again after a kill."""

    def __init__(self, recipe: CaptionRecipe, data_root: Path, folder: Path) -> None:
        self.recipe, self.folder, self._data_root = recipe, folder, data_root
        self._console = Console(stderr=True)

    def run(self, epochs: int | None = None) -> dict[str, Any]:
        """Trains up to ``epochs`` (default: the recipe's), then selects. Returns the summary, which is also written."""
        self._prepare()
        while self.epoch < min(epochs or self.recipe.schedule.epochs, self.recipe.schedule.epochs):
            self._run_epoch()
        return self.select()

    def _prepare(self) -> None:
        recipe = self.recipe
        (self.folder / "epochs").mkdir(parents=True, exist_ok=True)
        self.photos = read_photos(self._data_root, "train")
        self.trained, self.held = hold_back(self.photos, recipe.data.held_back, recipe.seed)
        vocabulary = self.folder / "tokenizer.model"
        if not vocabulary.exists():
            train_vocabulary(
                [each for index in self.trained for each in self.photos[index].captions], vocabulary, recipe.words.vocab_size
            )
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
        self.pairs = self._pairs()
        torch.manual_seed(recipe.seed)
        self.model = ShowAttendTell(ShowAttendTellConfig(recipe.words.vocab_size, **recipe.model))
        self.model.encoder.load_state_dict(efficientnet.imagenet_weights())
        self.model.encoder.requires_grad_(False)
        counts = Counter(token for _, tokens in self.pairs for token in (*tokens, END_ID))
        self.model.start_from(torch.tensor([float(counts[token]) for token in range(recipe.words.vocab_size)]))
        self.views = self._features()
        options = recipe.optimizer
        self._learned = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self._learned, lr=1.0, betas=(0.9, 0.98), weight_decay=options.weight_decay, fused=True)
        self.epoch = self.update = self._batch = 0
        self._running, self.baseline, self._log = (0.0, 0), 0.0, list[dict[str, Any]]()
        if (self.folder / "checkpoint.pt").exists():
            self._resume()

    def _pairs(self) -> list[tuple[int, list[int]]]:
        """Returns the photo's index and the tokens of each training caption."""
        encoded = [(index, self.tokenizer.encode(each)) for index in self.trained for each in self.photos[index].captions]
        return [(index, tokens) for index, tokens in encoded if 0 < len(tokens) <= self.recipe.data.max_words]

    def _features(self) -> list[Features]:
        cache = FeatureCache(self.model.eval(), self._data_root, self.folder / "features", self.recipe.seed)
        with Progress(console=self._console) as progress:
            return [cache.view("train", len(self.photos), view, progress) for view in range(self.recipe.data.views)]

    def batches_of(self, epoch: int) -> list[_Batch]:
        """Returns all captions in batches, each with a random view of its photo; the order depends on seed and epoch only."""
        rng, size = random.Random(f"{self.recipe.seed}/{epoch}"), self.recipe.schedule.batch_captions
        drawn = [(len(tokens), rng.random(), index, rng.randrange(len(self.views)), tokens) for index, tokens in self.pairs]
        drawn.sort(key=lambda each: each[:2])
        groups = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        rng.shuffle(groups)
        return [
            _Batch([each[2] for each in group], [each[3] for each in group], pad([[BEGIN_ID, *each[4], END_ID] for each in group]))
            for group in groups
        ]

    def _features_of(self, photos: Sequence[int], views: Sequence[int]) -> Tensor:
        return torch.stack(
            [torch.from_numpy(self.views[view][photo].astype("float32")) for photo, view in zip(photos, views, strict=True)]
        )

    def _run_epoch(self) -> None:
        batches, started = self.batches_of(self.epoch), time.monotonic()
        total, saved = self.recipe.schedule.epochs * len(batches), started
        self.model.train()
        columns = (TextColumn("epoch {task.fields[epoch]} nll {task.fields[nll]:.3f}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal) as progress:
            task = progress.add_task("", total=len(batches), completed=self._batch, epoch=self.epoch + 1, nll=0.0)
            for batch in batches[self._batch :]:
                nll, num_tokens = self.one_update(batch, total)
                self._running = (self._running[0] + nll, self._running[1] + num_tokens)
                self._batch += 1
                progress.update(task, advance=1, nll=self._running[0] / self._running[1])
                if time.monotonic() - saved > self.recipe.schedule.checkpoint_seconds:
                    self._save_checkpoint()
                    saved = time.monotonic()
        self._end_epoch(time.monotonic() - started)

    def _end_epoch(self, seconds: float) -> None:
        self.epoch, self._batch = self.epoch + 1, 0
        train_nll, self._running = self._running[0] / self._running[1], (0.0, 0)
        save_atomically(self._own_weights(), self.folder / "epochs" / f"{self.epoch:03d}.pt")
        line = {
            "epoch": self.epoch,
            "updates": self.update,
            "train_nll": round(train_nll, 4),
            "held_back_nll": round(self._held_back_nll(), 4),
            "held_back_bleu_greedy": round(self._bleu(greedy_tokens(self.model, self._held_back_features())), 2),
            "seconds": round(seconds, 1),
        }
        self._log.append(line)
        self._save_checkpoint()
        (self.folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in self._log), encoding="utf-8")
        self._console.print(" ".join(f"{key} {value}" for key, value in line.items()))

    def one_update(self, batch: _Batch, total: int) -> tuple[float, int]:
        """Makes one step of the optimizer, at a rate that rises linearly and falls as a cosine.

        Args:
            batch: the captions.
            total: number of updates of the whole run, at which the rate is 0.

        Returns:
            Negative log-likelihood and number of tokens, as :meth:`loss_of`.
        """
        self.update += 1
        options = self.recipe.optimizer
        rise, fall = self.update / options.warmup_updates, (self.update - options.warmup_updates) / (total - options.warmup_updates)
        rate = options.peak_learning_rate * (rise if rise < 1 else 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))
        self.optimizer.param_groups[0]["lr"] = rate
        loss, nll, num_tokens = self.loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._learned, options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return nll, num_tokens

    def loss_of(self, batch: _Batch) -> tuple[Tensor, float, int]:
        """Computes the loss of one batch; moves the baseline of section 4.1 if the attention's locations were drawn.

        The loss is that of Xu et al. 2015, equation 14, with label smoothing: the mean over the target tokens, plus the doubly
        stochastic term, a mean over the captions. Hard attention draws locations in a share ``_DRAWN_SHARE`` of the batches; for
        these the REINFORCE and the entropy term of section 4.1 are added.

        Returns:
            The loss, a scalar with gradient; the sum of the negative log-likelihood over the batch in nats, without smoothing; and
            the number of target tokens, with end symbols and without padding.
        """
        terms, given, wanted = self.recipe.attention, batch.tgt[:, :-1], batch.tgt[:, 1:]
        source = self.model.source(self.model.annotate(self._features_of(batch.photos, batch.views)))
        is_drawn = (
            self.model.config.attention == "hard" and random.Random(f"{self.recipe.seed}/{self.update}").random() < _DRAWN_SHARE
        )
        hidden, weights, log_drawn = self.model.unroll(source, given, draw=is_drawn)
        log_probs, is_token = self.model.project(hidden).log_softmax(-1), wanted != 0
        own = log_probs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1) * is_token  # (B, T)
        num_tokens = int(is_token.sum())
        smoothing = self.recipe.optimizer.label_smoothing
        smoothed = (1 - smoothing) * own.sum() + smoothing * (log_probs.mean(-1) * is_token).sum()
        looked = (weights * is_token.unsqueeze(-1)).sum(1)  # (B, L)
        loss = -smoothed / num_tokens + terms.doubly_stochastic * (1 - looked).square().sum(-1).mean()
        if log_drawn is not None:
            likelihood = own.detach().sum(1)
            reward = terms.reward * (likelihood - self.baseline)
            self.baseline += (1 - terms.baseline_decay) * (float(likelihood.mean()) - self.baseline)
            entropy = -(weights * weights.clamp(min=1e-9).log()).sum(-1)
            loss = loss - ((reward.unsqueeze(1) * log_drawn + terms.entropy * entropy) * is_token).sum() / num_tokens
        return loss, -float(own.detach().sum()), num_tokens

    def _held_back_features(self) -> Tensor:
        return self._features_of(self.held, [0] * len(self.held))

    @torch.no_grad()
    def _held_back_nll(self) -> float:
        self.model.eval()
        pairs = [(at, self.tokenizer.encode(each)) for at, index in enumerate(self.held) for each in self.photos[index].captions]
        features, total, num_tokens = self._held_back_features(), 0.0, 0
        for start in range(0, len(pairs), 256):
            group = pairs[start : start + 256]
            tgt = pad([[BEGIN_ID, *tokens, END_ID] for _, tokens in group])
            source = self.model.source(self.model.annotate(features[[at for at, _ in group]]))
            hidden, _, _ = self.model.unroll(source, tgt[:, :-1])
            log_probs = self.model.project(hidden).log_softmax(-1).gather(-1, tgt[:, 1:].unsqueeze(-1)).squeeze(-1)
            is_token = tgt[:, 1:] != 0
            total, num_tokens = total - float((log_probs * is_token).sum()), num_tokens + int(is_token.sum())
        return total / num_tokens

    def _bleu(self, captions: list[list[int]]) -> float:
        """Returns BLEU-4 of captions of the held-back photos."""
        return bleu([self.tokenizer.decode(tokens) for tokens in captions], [self.photos[index] for index in self.held])

    def select(self) -> dict[str, Any]:
        """Keeps the weights of the epoch with the best BLEU-4 on the held-back photos, with beam search.

        Only the five best epochs by greedy search are evaluated. Writes ``best.pt`` and ``summary.json``; returns the summary.
        """
        log = self._log
        likely = sorted(log, key=lambda line: -line["held_back_bleu_greedy"])[:5]
        features, scores = self._held_back_features(), dict[int, float]()
        for line in likely:
            self._load_own(torch.load(self.folder / "epochs" / f"{line['epoch']:03d}.pt", weights_only=True))
            self.model.eval()
            scores[line["epoch"]] = round(self._bleu(caption_tokens(self.model, features, self.recipe.schedule.beam_size)), 2)
        best = max(scores, key=lambda epoch: scores[epoch])
        self._load_own(torch.load(self.folder / "epochs" / f"{best:03d}.pt", weights_only=True))
        save_atomically(self.model.state_dict(), self.folder / "best.pt")
        summary = {
            "epochs": len(log),
            "updates": self.update,
            "kept_epoch": best,
            "held_back_bleu_4": scores[best],
            "held_back_bleu_4_by_epoch": {str(epoch): score for epoch, score in sorted(scores.items())},
            "beam_size": self.recipe.schedule.beam_size,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "learned_parameters": sum(p.numel() for p in self._learned),
            "train_seconds": round(sum(line["seconds"] for line in log)),
            "log": log,
        }
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        self._console.print({key: value for key, value in summary.items() if key != "log"})
        return summary

    def _own_weights(self) -> dict[str, Tensor]:
        """Returns all weights except the trunk's, which are frozen."""
        return {name: value for name, value in self.model.state_dict().items() if not name.startswith("encoder.")}

    def _load_own(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(self.model.state_dict() | weights)

    def _save_checkpoint(self) -> None:
        state = {
            "model": self._own_weights(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self._batch,
            "update": self.update,
            "running": list(self._running),
            "baseline": self.baseline,
            "rng": torch.get_rng_state(),
            "log": self._log,
        }
        save_atomically(state, self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self._load_own(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.update, self._batch = state["epoch"], state["update"], state["batch"]
        self._running, self.baseline = (state["running"][0], state["running"][1]), state["baseline"]
        torch.set_rng_state(state["rng"])
        self._log = state["log"]
        self._console.print(f"resumed at epoch {self.epoch + 1}, batch {self._batch}")


def bleu(captions: list[str], photos: Sequence[Photo]) -> float:
    """Returns corpus BLEU-4, 0 to 100 (Papineni et al. 2002), by words: ``captions[i]`` against the captions of ``photos[i]``."""
    count = max(len(photo.captions) for photo in photos)
    references = [[photo.captions[k if k < len(photo.captions) else 0] for photo in photos] for k in range(count)]
    return sacrebleu.corpus_bleu(captions, references, tokenize="none", force=True).score
