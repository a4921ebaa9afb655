# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest that seeds each test, so that its random numbers do not depend on the tests before it in the same process.

Fixtures that several tests share are seeded too, and the test once more after them. What is drawn while a file is imported is not.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Generator

import pytest

VARIABLE = "ATTNSERVE_TEST_SEED"
"""Environment variable with another seed than 0: a test that holds for one seed alone fails with some other."""


def seed() -> None:
    """Seeds the generators of Python, NumPy and PyTorch; the latter two if they are imported."""
    number = int(os.environ.get(VARIABLE) or 0)
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seeds a test before its fixtures are made."""
    seed()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Seeds a fixture that several tests share, and what follows it."""
    if fixturedef.scope == "function":
        return (yield)
    seed()
    try:
        return (yield)
    finally:
        seed()
