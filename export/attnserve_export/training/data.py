# SPDX-License-Identifier: Apache-2.0
"""Parallel text: reading it, its SentencePiece vocabulary, and batches of sentences of similar length."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Batch:
    """One update's sentences: ``src`` (B, T_src) ends with the end symbol; ``tgt`` (B, T_tgt + 1) has begin and end."""

    src: Tensor
    tgt: Tensor


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a text file, gzipped or not.

    Raises:
        FileNotFoundError: the file is missing; the text says how to name the folder of the data sets.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: name the folder of the data sets by --data or ATTNSERVE_DATA")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        return [line.strip() for line in file]


def read_pairs(root: Path, split: str, source: str, target: str) -> list[tuple[str, str]]:
    """The sentence pairs of one split of Multi30k, in the file's order."""
    sides = [read_lines(root / "multi30k" / f"{split}.{language}.gz") for language in (source, target)]
    return list(zip(*sides, strict=True))


def train_tokenizer(pairs: list[tuple[str, str]], path: Path, vocab_size: int, model_type: str) -> None:
    """Writes a joint SentencePiece model of both sides to ``path``; the same pairs give the same model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([sentence for pair in pairs for sentence in pair]),
            model_writer=writer,
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc",
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=BEGIN_ID,
            eos_id=END_ID,
            num_threads=1,
            minloglevel=2,
        )


class PairBatches:
    """Batches of a split. Their order and the best segmentations depend on the seed and the epoch only.

    Sampled segmentations are not reproducible: SentencePiece 0.2.3 uses a new seed in each process.

    Args:
        pairs: source and target sentences.
        tokenizer: shared by both sides.
        batch_tokens: maximum number of padded tokens of the longer side in one batch.
        max_pieces: a longer sampled segmentation is replaced by the best one.
        sampling: alpha of SentencePiece's sampling, and the share of sentences that are sampled.
        seed: seed of order and sampling.
        taught: a teacher's translations of the sources; empty without a teacher.
    """

    def __init__(  # noqa: PLR0913
        self,
        pairs: list[tuple[str, str]],
        tokenizer: sentencepiece.SentencePieceProcessor,
        *,
        batch_tokens: int,
        max_pieces: int,
        sampling: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        taught: Sequence[str] = (),
    ) -> None:
        self._pairs, self._tokenizer, self._seed = pairs, tokenizer, seed
        self._batch_tokens, self._max_pieces = batch_tokens, max_pieces
        self._alpha, self._share = sampling
        self._best = [self._encoded(pair) for pair in pairs]
        self._taught = [(source, target) for (source, _), target in zip(pairs, taught, strict=bool(taught))]
        self._best_taught = [self._encoded(pair) for pair in self._taught]

    def _encoded(self, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
        return self._tokenizer.encode(pair[0]), self._tokenizer.encode(pair[1])

    def epoch(self, number: int, taught_share: float = 0.0) -> list[Batch]:
        """Returns all batches of epoch ``number``, shuffled; a share of the targets, drawn for each epoch, are the teacher's."""
        rng = random.Random(f"{self._seed}/{number}")
        sentencepiece.set_random_generator_seed(rng.randrange(1 << 31))
        encoded = [self._segment(index, rng, taught_share) for index in range(len(self._pairs))]
        encoded.sort(key=lambda pair: (len(pair[1]), len(pair[0]), rng.random()))
        batches = [collate(group) for group in self._groups(encoded)]
        rng.shuffle(batches)
        return batches

    def in_order(self) -> Iterator[Batch]:
        """Yields batches of the best segmentations, shortest first, unshuffled: for evaluating a loss."""
        yield from (collate(group) for group in self._groups(sorted(self._best, key=lambda pair: len(pair[1]))))

    def _segment(self, index: int, rng: random.Random, taught_share: float) -> tuple[list[int], list[int]]:
        is_taught = taught_share > 0 and rng.random() < taught_share
        pairs, bests = (self._taught, self._best_taught) if is_taught else (self._pairs, self._best)
        best = bests[index]
        if self._alpha == 0 or rng.random() >= self._share:
            return best
        src, tgt = (self._tokenizer.encode(side, enable_sampling=True, alpha=self._alpha, nbest_size=-1) for side in pairs[index])
        return (src, tgt) if max(len(src), len(tgt)) <= self._max_pieces else best

    def _groups(self, encoded: list[tuple[list[int], list[int]]]) -> Iterator[list[tuple[list[int], list[int]]]]:
        group: list[tuple[list[int], list[int]]] = []
        widest = 0
        for pair in encoded:
            widest = max(widest, len(pair[0]) + 1, len(pair[1]) + 1)
            if group and widest * (len(group) + 1) > self._batch_tokens:
                yield group
                group, widest = [], max(len(pair[0]) + 1, len(pair[1]) + 1)
            group.append(pair)
        if group:
            yield group


def collate(group: list[tuple[list[int], list[int]]]) -> Batch:
    """Pads a group of (source, target) id lists and adds the begin and end symbols."""
    src = [[*source, END_ID] for source, _ in group]
    tgt = [[BEGIN_ID, *target, END_ID] for _, target in group]
    return Batch(pad(src), pad(tgt))


def pad(rows: list[list[int]]) -> Tensor:
    """Right-pads with 0: int64 (B, T)."""
    width = max(map(len, rows))
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows], dtype=torch.int64)
