# SPDX-License-Identifier: Apache-2.0
"""One engine and one set of sentences for all parity tests; `--sentences FILE` puts others in place of the golden ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tests.engines import Engine, golden_sentences


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The default model's engine."""
    return Engine()


@pytest.fixture(scope="session")
def sentences(request: pytest.FixtureRequest) -> list[str]:
    """English sentences, one request each."""
    name = request.config.getoption("--sentences")
    if name is None:
        return golden_sentences()
    path = Path(name)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]
