# SPDX-License-Identifier: Apache-2.0
"""One server for all tests of a module, and a channel to it."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.e2e.serving import Server, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("server"), "--workers", "1") as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with server.channel() as opened:
        yield opened
