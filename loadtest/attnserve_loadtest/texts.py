# SPDX-License-Identifier: Apache-2.0
"""The sentences that are asked: a file's lines, read once."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "sentences.en.txt"
"""What is asked unless a file is named: the checkout's own sentences."""


@functools.cache
def read_texts(path: str = "") -> tuple[str, ...]:
    """Lines of a UTF-8 text file (gzip where it ends in ``.gz``) that are not blank.

    Raises:
        ValueError: there are none.
        OSError: it cannot be read.
    """
    file = Path(path) if path else GOLDEN
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    texts = tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    if not texts:
        raise ValueError(f"{file} has no sentences")
    return texts
