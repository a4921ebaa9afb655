# SPDX-License-Identifier: Apache-2.0
"""One server for all tests that need no flags of their own, and a channel to it: a plugin that the root's conftest loads.

It serves every model that the project ships. Tests must leave it idle and compare metrics before and after; a test that ends it,
kills its workers, or needs other flags starts its own, which it may call ``server`` too.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.e2e.serving import MODELS, Server, serve


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shared server, one for each process that runs tests; it starts with the first test that asks for it."""
    with serve(tmp_path_factory.mktemp("server"), "--workers", "1", "--models", str(MODELS)) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    """A connection for each module to its ``server``, shared or not."""
    with server.channel() as opened:
        yield opened
