# SPDX-License-Identifier: Apache-2.0
"""What Locust reads: options, users, and what happens at the beginning and at the end of a run.

Open loop at 200 calls a second over two processes:

    locust -f loadtest/attnserve_loadtest/locustfile.py --headless --processes 2 --users 20 --rate 10 -t 60s OpenLoopUser
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc.experimental.gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

grpc.experimental.gevent.init_gevent()

from attnserve_loadtest import recording, report, server_side, slo  # noqa: E402
from attnserve_loadtest.users import OpenLoopUser, StreamUser, TranslateUser  # noqa: E402

__all__ = ["OpenLoopUser", "StreamUser", "TranslateUser"]

log = logging.getLogger(__name__)
_before: dict[str, server_side.Histogram] = {}


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Options beside Locust's own; each has an environment variable."""
    group = parser.add_argument_group("attnserve")

    def add(name: str, **settings: Any) -> None:
        group.add_argument(name, env_var=f"ATTNSERVE_LOADTEST_{name.strip('-').upper().replace('-', '_')}", **settings)

    add("--address", default="127.0.0.1:8001", help="The server's gRPC address.")
    add("--metrics", default="http://127.0.0.1:8002/metrics", help="The server's metrics; empty for none.")
    add("--model", default="", help="Model id; the server's default unless given.")
    add("--beam-size", type=int, default=1, help="Hypotheses kept at each step.")
    add("--attention", action="store_true", default=False, help="Ask for the attention.")
    add("--stream", action="store_true", default=False, help="Streams in the open loop too.")
    add("--rate", type=float, default=1.0, help="Calls a second of each open-loop user.")
    add("--deadline", type=float, default=30.0, help="Seconds for a call.")
    add("--sentences", default="", help="UTF-8 text, one sentence a line, .gz or plain.")
    add("--slo", action="append", default=[], help="Objective, such as Translate:p99<250; several times. The exit code says.")
    add("--report", default="", help="Write the report into this JSON file.")


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Checks the objectives, and reads the server's histograms."""
    options = environment.parsed_options
    recording.of(environment)
    for text in options.slo:
        slo.parse(text)
    if options.metrics and not isinstance(environment.runner, WorkerRunner):
        _before.update(server_side.read(options.metrics))


@events.quitting.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Prints and writes the report; objectives that fail, or a run without any answer, set the exit code."""
    options = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner):
        return
    objectives = [slo.parse(text) for text in options.slo]
    found = report.measured(environment, objectives)
    server = {name: now - _before[name] for name, now in server_side.read(options.metrics).items()} if _before else {}
    names = ("address", "model", "beam_size", "attention", "stream", "rate", "num_users", "run_time", "sentences")
    whole = report.as_json(found, server, objectives, {name: getattr(options, name, None) for name in names})
    report.show(whole)
    if options.report:
        report.write(Path(options.report), whole)
    if not found or not all(each["holds"] for each in whole["objectives"]):
        environment.process_exit_code = 1
    elif objectives:
        environment.process_exit_code = 0
