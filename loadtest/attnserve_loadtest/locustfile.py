# SPDX-License-Identifier: Apache-2.0
"""``locust -f loadtest/attnserve_loadtest/locustfile.py --host 127.0.0.1:8001``: users, options, report and gate.

Besides Locust's own reports, the master writes ``loadtest.json``, ``.csv`` and ``.html`` into ``--results``, with the percentiles
of clients and server side by side; its exit code is 1 if an objective (``--slo``) was not met.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner

from attnserve_client.security import Security
from attnserve_loadtest import server_side, slo
from attnserve_loadtest.pass_users import PASS_USERS
from attnserve_loadtest.recording import RECORDER
from attnserve_loadtest.report import Comparison, compare, save
from attnserve_loadtest.users import ATTENTION, USERS, LoadUser

globals().update({user.__name__: user for user in (*USERS, *PASS_USERS)})  # Locust looks for them here
log = logging.getLogger(__name__)
_before: dict[str, server_side.Reading] = {}
USAGE = 2


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """The options of these users."""
    group = parser.add_argument_group("attnserve")
    group.add_argument(
        "--rate", type=float, default=0.0, metavar="R", help="Open loop: requests a second of each user; 0 for a closed loop"
    )
    group.add_argument("--think-seconds", type=float, default=0.0, metavar="S", help="Pause of a user in a closed loop")
    group.add_argument("--texts", default="", metavar="FILE", help="Lines to translate; else the project's own sentences")
    group.add_argument("--images", default="", metavar="DIR", help="Images to send; else the project's own, in many sizes")
    group.add_argument("--model", default="", metavar="ID", help="Model id for translations; else the server's default")
    group.add_argument("--caption-model", default="", metavar="ID", help="Model id for captions; else the server's default")
    group.add_argument("--segment-model", default="", metavar="ID", help="Model id for segmentations; else the server's default")
    group.add_argument("--classify-model", default="", metavar="ID", help="Model id for classifications; else the server's default")
    group.add_argument("--video-model", default="", metavar="ID", help="Model id for clips; else the server's default")
    group.add_argument("--clip", default="", metavar="FILE", help="Video file to send; else the demo's")
    group.add_argument("--generate-model", default="", metavar="ID", help="Model id for generations; else the server's default")
    group.add_argument("--beam-size", type=int, default=1, metavar="K", help="Beam size of every request")
    group.add_argument("--attention", choices=sorted(ATTENTION), default="none", help="Attention that is asked for")
    files = Security.from_environment()
    group.add_argument("--ca", default=files.ca, metavar="FILE", help="CA of the server's certificate (PEM); turns TLS on")
    group.add_argument("--cert", default=files.cert, metavar="FILE", help="Certificate of the users (PEM)")
    group.add_argument("--key", default=files.key, metavar="FILE", help="Private key of --cert (PEM)")
    group.add_argument("--token-file", default=files.token_file, metavar="FILE", help="File with the users' token")
    group.add_argument("--metrics-url", default="", metavar="URL", help="The server's metrics, for its side of the report")
    group.add_argument("--results", default="", metavar="DIR", help="Where loadtest.json, .csv and .html go")
    group.add_argument(
        "--slo", action="append", default=[], metavar="TEXT", help="Objective, such as Translate:p99<250; may be repeated"
    )


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Checks the options, and subscribes to the users' events."""
    options: Any = environment.parsed_options
    try:
        objectives = [slo.parse(text) for text in options.slo]
    except ValueError as error:
        raise SystemExit(_refuse(str(error))) from error
    for user in environment.user_classes:
        if issubclass(user, LoadUser):
            user.prepare(options)
    gevent.get_hub().loop.update_now()  # else the time that this took counts as run time of the test
    environment.events.request.add_listener(_record)
    if isinstance(environment.runner, WorkerRunner):
        environment.events.report_to_master.add_listener(lambda client_id, data: data.update(attnserve=RECORDER.take()))
        return
    environment.events.worker_report.add_listener(lambda client_id, data: RECORDER.merge(data["attnserve"]))
    environment.events.test_start.add_listener(lambda environment, **_: _start(options))
    environment.events.quitting.add_listener(lambda environment, **_: _finish(environment, objectives))


def _record(name: str, response_time: float, exception: Exception | None, **_: Any) -> None:
    if exception is None:
        RECORDER.add(name, response_time)
    else:
        RECORDER.fail(name, str(exception))


def _start(options: Any) -> None:
    RECORDER.clear()
    _before.clear()
    if options.metrics_url:
        try:
            _before[options.metrics_url] = server_side.read(options.metrics_url, _security(options))
        except OSError as error:
            log.warning("the report will have only the clients' percentiles: %s", error)


def _finish(environment: Environment, objectives: list[slo.Objective]) -> None:
    options: Any = environment.parsed_options
    verdicts = slo.judge(objectives, RECORDER)
    comparisons = _comparisons(options.metrics_url, _security(options))
    if options.results:
        save(Path(options.results), RECORDER, comparisons, verdicts)
        print(f"report: {Path(options.results, 'loadtest.html')}")
    for each in comparisons:
        print(each)
    for name, counts in RECORDER.errors.items():
        print(f"{name} failed: {', '.join(f'{number} times with {status}' for status, number in counts.most_common(3))}")
    for verdict in verdicts:
        measured = "nothing was measured" if verdict.value is None else f"{verdict.value:.4g}"
        print(f"{'met' if verdict.is_met else 'MISSED'}: {verdict.objective.text} ({verdict.event}: {measured})")
    if objectives and not all(verdict.is_met for verdict in verdicts):
        environment.process_exit_code = 1
    elif objectives:
        environment.process_exit_code = 0


def _security(options: Any) -> Security:
    return Security(options.ca, options.cert, options.key, options.token_file)


def _comparisons(url: str, security: Security) -> list[Comparison]:
    if url not in _before:
        return []
    try:
        return compare(RECORDER, _before[url], server_side.read(url, security))
    except OSError as error:
        log.warning("the report has only the clients' percentiles: %s", error)
        return []


def _refuse(message: str) -> int:
    log.error("%s", message)
    return USAGE
