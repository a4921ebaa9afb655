# SPDX-License-Identifier: Apache-2.0
"""Mutated token files: a table of valid tokens, or ``TrustError``, whose text repeats no word of the file."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from attnserve_server.errors import TrustError
from attnserve_server.transport.tokens import read_tokens
from tests.fuzzing import ENOUGH, campaign, corpus, mutated, scales

FILES = corpus("token")
SOUND = "sound.txt"
MOST_S = 5.0
"""Time after which one example is taken for a hang."""


def read(file: Path, data: bytes) -> bool:
    """Whether a file is accepted."""
    file.write_bytes(data)
    began, problem = time.monotonic(), ""
    try:
        table = read_tokens(file)
    except TrustError as error:
        problem = str(error)
        assert problem.startswith(f"{file}: ")
        assert not [word for word in data.split() if len(word) > 16 and word.decode("latin-1") in problem], "a digest is shown"
    else:
        assert table
        assert all(len(digest) == 32 and token.name and token.scopes for digest, token in table.items())
        assert all(token.rate is None or 0 < token.rate < math.inf for token in table.values())
    assert time.monotonic() - began < MOST_S
    return not problem


@pytest.mark.parametrize("name", FILES)
def test_kept_file_is_read_or_refused(tmp_path: Path, name: str) -> None:
    assert read(tmp_path / "tokens", FILES[name]) == (name == SOUND)


@scales
@pytest.mark.timeout(600)
def test_mutated_file_is_read_or_refused(tmp_path: Path, scale: float) -> None:
    accepted = [0, 0]

    def check(data: bytes) -> None:
        accepted[read(tmp_path / "tokens", data)] += 1

    campaign(mutated([FILES[SOUND]], 1) | mutated(list(FILES.values())), check, 2, scale)
    print(f"{accepted[1]} of {sum(accepted)} accepted")
    if sum(accepted) >= ENOUGH:
        assert min(accepted) > sum(accepted) / 100
