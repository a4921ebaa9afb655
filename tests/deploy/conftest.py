# SPDX-License-Identifier: Apache-2.0
"""The engine of containers and the image of the server, made once for all tests of ``deploy/``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.containers import ROOT, Engine, build, engine


@pytest.fixture(scope="session")
def containers() -> Iterator[Engine]:
    """Runs containers without a daemon."""
    with engine() as started:
        yield started


@pytest.fixture(scope="session")
def image(containers: Engine) -> str:
    """Name of the image for CPUs, built from this checkout."""
    return build(containers, ROOT / "deploy/docker/Dockerfile", "attnserve:test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets tests with containers take longer, unless they have a limit: the first one fetches tools, and builds images."""
    for item in items:
        if "containers" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
