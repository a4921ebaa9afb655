# SPDX-License-Identifier: Apache-2.0
"""Random numbers of a test do not depend on the tests before it; ATTNSERVE_TEST_SEED gives others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract import inner_pytest
from tests.seeds import VARIABLE

TEXT = """
import random
import numpy as np
import pytest
import torch

@pytest.fixture(scope="module")
def of_module():
    return draws()

@pytest.fixture
def of_fixture(of_module):
    return of_module, draws()

def draws():
    return [random.random(), float(np.random.random()), float(torch.rand(()))]

@pytest.mark.parametrize("name", ["a", "b"])
def test_it(of_fixture, name):
    with open("drawn", "a") as file:
        print(name, of_fixture, draws(), file=file)
"""


def drawn(folder: Path, *options: str, **variables: str) -> list[str]:
    """Runs a file of two tests; returns what each has drawn in a fixture and by itself."""
    (folder / "test_it.py").write_text(TEXT)
    (folder / "drawn").unlink(missing_ok=True)
    arguments = ("pytest", "-p", "tests.seeds", "-p", "no:cacheprovider", "-q", "test_it.py", *options)
    inner_pytest.run(folder, *arguments, **variables).check_returncode()
    return (folder / "drawn").read_text().splitlines()


def test_numbers_do_not_depend_on_the_tests_before(tmp_path: Path) -> None:
    first, second = drawn(tmp_path)
    assert first.removeprefix("a") == second.removeprefix("b")
    assert drawn(tmp_path, "-k", "b") == [second]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_seed_gives_other_numbers(tmp_path: Path, seed: str) -> None:
    ours, usual = (re.findall(r"0\.\d+", each[0]) for each in (drawn(tmp_path, **{VARIABLE: seed}), drawn(tmp_path)))
    assert len(ours) == len(usual) == 9, "three generators, three places"
    assert not set(ours) & set(usual)
