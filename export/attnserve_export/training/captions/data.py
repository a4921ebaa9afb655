# SPDX-License-Identifier: Apache-2.0
"""Flickr8k: photos with five captions each, the words of captions, and a word vocabulary."""

from __future__ import annotations

import io
import json
import random
import re
import string
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece
from PIL import Image

from attnserve_export.training.data import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID

Pixels = npt.NDArray[np.uint8]
_ARCHIVES = {"train": ("train-0.tar", "train-1.tar"), "dev": ("dev.tar",)}
_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_APART = re.compile(r"\s+'s\b")


def words(caption: str) -> list[str]:
    """Returns a caption's words in lower case, without punctuation. A possessive "'s" is joined to its word."""
    return _WORD.findall(_APART.sub("'s", caption.lower()))


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo's file name and its captions, each as its words joined by spaces."""

    name: str
    captions: list[str]


def read_photos(root: Path, split: str) -> list[Photo]:
    """Reads the photos of a split, train or dev, in the order of its archives.

    Raises:
        FileNotFoundError: the data set is missing; the text says how to name its folder.
    """
    path = root / "flickr8k" / "captions.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: name the folder of the data sets by --data or ATTNSERVE_DATA")
    captions = json.loads(path.read_text(encoding="utf-8"))[split]
    return [Photo(name, [" ".join(words(each)) for each in captions[name]]) for name, _ in _files(root, split)]


def read_pixels(root: Path, split: str) -> Iterator[Image.Image]:
    """Yields the photos' pixels, in the order of :func:`read_photos`."""
    for _, data in _files(root, split, with_data=True):
        yield Image.open(io.BytesIO(data)).convert("RGB")


def _files(root: Path, split: str, *, with_data: bool = False) -> Iterator[tuple[str, bytes]]:
    for archive in _ARCHIVES[split]:
        with tarfile.open(root / "flickr8k" / archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if with_data else None
                yield member.name, file.read() if file else b""


def hold_back(photos: Sequence[object], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Returns the indices of the photos to train on, and of ``count`` random ones for selection, both sorted."""
    held = set(random.Random(seed).sample(range(len(photos)), count))
    return [index for index in range(len(photos)) if index not in held], sorted(held)


def train_vocabulary(captions: Sequence[str], path: Path, size: int) -> None:
    """Writes a SentencePiece model whose pieces are the most frequent words; it lowercases English letters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as writer, tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"  # SentencePiece's default rules for all of Unicode take a quarter of a megabyte
        rules.write_text("".join(f"{ord(each):X}\t{ord(each.lower()):X}\n" for each in string.ascii_uppercase), encoding="ascii")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions),
            model_writer=writer,
            vocab_size=size,
            model_type="word",
            character_coverage=1.0,
            normalization_rule_tsv=str(rules),
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=BEGIN_ID,
            eos_id=END_ID,
            num_threads=1,
            minloglevel=2,
        )
