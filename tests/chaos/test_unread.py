# SPDX-License-Identifier: Apache-2.0
"""Outputs that are not read: the server's log, and answers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tests.e2e.serving import SENTENCES, ask, serve

ONE = ("--workers", "1")


def test_server_whose_log_is_not_read_answers(tmp_path: Path) -> None:
    """Some tens of lines fill the pipe."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        with serve(tmp_path, *ONE, output=writing) as server, server.channel() as channel:
            for _ in range(100):
                assert ask(channel, SENTENCES[0], timeout=10).hypotheses
            assert server.http("/healthz")[0] == 200
            assert server.scrape().total("attnserve_log_lines_dropped_total") == 0, "4 MiB of lines may wait"
    finally:
        os.close(reading)
        os.close(writing)
